"""What the load tests share: the service under test, a damaged photo to send, and options."""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import httpx
import numpy as np
from skimage import data

from service.client import Client
from service.evaluation.metrics import to_image, to_pixels
from service.images import encode
from service.launch import RunningService, exit_on_sigterm, running_service
from service.training.degradations import make_pair

LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def options_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--url", type=_loopback_url, help="a running service; absent: start one")
    parser.add_argument("--size", type=int, default=512, help="side of the square photo")
    parser.add_argument("--json", type=Path, help="write the numbers there too")
    parser.add_argument("--log", type=Path, default=Path("demo_output/loadtest.log"))
    return parser


@contextlib.contextmanager
def service_under_test(url: str | None, log: Path) -> Iterator[RunningService]:
    """The service at `url`, or a fresh one that ends with the test; nan: readiness not seen."""
    if url is not None:
        yield RunningService(url, float("nan"))
        return
    exit_on_sigterm()
    with running_service(log, timeout_s=120.0) as service:
        yield service


def connect(url: str) -> Client:
    """A client that no proxy of the environment comes between."""
    return Client(url, transport=httpx.HTTPTransport())


def damaged_photo(task: str, size: int, seed: int = 0) -> bytes:
    """PNG of a sample photo, degraded for `task`."""
    cv2.setNumThreads(1)
    pixels = cv2.imread(str(Path(str(data.data_dir)) / "astronaut.png"))
    assert pixels is not None, "scikit-image ships this photo"
    square = cv2.resize(pixels[..., ::-1], (size, size), interpolation=cv2.INTER_AREA)
    clean = to_image(np.asarray(square, np.uint8))
    pair = make_pair(task, clean, np.random.default_rng(seed), size / 256)
    return encode(to_pixels(pair.input), "png")


def _loopback_url(url: str) -> str:
    if urlsplit(url).hostname not in LOOPBACK:
        raise argparse.ArgumentTypeError("load tests run against this machine alone: 127.0.0.1")
    return url.rstrip("/")
