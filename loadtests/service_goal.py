"""G5: edits per second through HTTP, queue, worker and codecs, against the bare engine.

Both engines take at least 20 ms for a step, sleeping for the rest, as one waits for a GPU. The api,
the worker and Redis are processes of their own; 16 clients each send their next edit at once.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import torch
import uvloop

from loadtests.bench_bases import SIZES, bench_base, loaded_store
from loadtests.contenders import MAX_BATCH, Contenders, drain
from loadtests.engine_goals import Measure
from loadtests.fleet import Fleet
from loadtests.goals import Result, summary
from loadtests.side_by_side import Clock, ratio, side_by_side
from service.client import AsyncClient
from service.engine.edit import Edit
from service.engine.engine import Engine
from service.engine.model_runner import ModelRunner
from service.engine.updates import Update
from service.images import encode
from service.queue_pictures import folder_in_memory
from service.redis_server import PrivateRedis
from service.settings import Settings
from service.worker_process import serve_engine

STEP_S = 0.02
NUM_EDITS = 192
NUM_CLIENTS = 2 * MAX_BATCH  # so that the next edits wait while the batch runs
READY_TIMEOUT_S = 120.0


class PacedEngine(Engine):
    """An engine whose step takes at least STEP_S."""

    def step(self) -> list[Update]:
        began = time.perf_counter()
        updates = super().step()
        time.sleep(max(0.0, began + STEP_S - time.perf_counter()))
        return updates


def through_service(contenders: Contenders, clock: Clock, rounds: int) -> list[Result]:
    """G5; only for bases with random weights, which need no files but the plugins."""
    if contenders.base.name not in SIZES:
        return []
    edits = contenders.edits(NUM_EDITS, 8)
    bare = PacedEngine(contenders.runner, MAX_BATCH)
    with _service(contenders) as url:
        seconds = side_by_side(
            Clock(is_cpu=False),
            {
                "bare engine": lambda: drain(bare, edits),
                "service": lambda: asyncio.run(_send(url, edits)),
            },
            rounds,
        )
    detail = summary(seconds) | {"num_edits": NUM_EDITS, "clients": NUM_CLIENTS}
    detail |= {"side": contenders.base.side, "step_ms": 1e3 * STEP_S}
    return [Result("G5", ratio(seconds, "bare engine", "service"), detail)]


async def _send(url: str, edits: list[Edit]) -> None:
    """All edits, at most NUM_CLIENTS at a time."""
    waiting = list(edits)
    files = {edit.id: encode(edit.pixels, "png") for edit in edits[:8]}

    async def one_client() -> None:
        async with AsyncClient(url, transport=httpx.AsyncHTTPTransport()) as client:
            while waiting:
                edit = waiting.pop()
                photo = files[str(int(edit.id) % 8)]
                await client.edit(photo, plugins=edit.plugins, steps=edit.steps, seed=edit.seed)

    await asyncio.gather(*(one_client() for _ in range(NUM_CLIENTS)))


@contextlib.contextmanager
def _service(contenders: Contenders) -> Iterator[str]:
    """Url of an api with a paced worker behind it."""
    with PrivateRedis() as redis, folder_in_memory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        settings = Settings(
            redis_url=redis.url,
            pictures_folder=folder,
            port=port,
            grpc_port=0,
            plugins_store=contenders.base.store,
            base=contenders.base.name,
            device=str(contenders.device),
            max_batch_size=MAX_BATCH,
            num_threads=torch.get_num_threads(),
        )
        with Fleet(settings, 1, serve_paced), _api(settings):
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(url)
            yield url


def serve_paced(settings: Settings) -> None:
    """A worker process with a paced engine over the base that settings name."""
    torch.set_num_threads(settings.num_threads)
    base = bench_base(settings.base, settings.plugins_store)
    backbone = base.build(torch.device(settings.device))
    runner = ModelRunner(backbone, loaded_store(base, backbone))
    uvloop.run(serve_engine(PacedEngine(runner, settings.max_batch_size), settings))


@contextlib.contextmanager
def _api(settings: Settings) -> Iterator[None]:
    values = {
        f"DIFFPLUGIN_{name.upper()}": str(getattr(settings, name))
        for name in ("redis_url", "pictures_folder", "port", "grpc_port", "plugins_store", "base")
    }
    command = [sys.executable, "-m", "service.cli", "api"]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env=os.environ | values, stdout=quiet, stderr=quiet)
    try:
        yield
    finally:
        process.terminate()
        process.wait(READY_TIMEOUT_S)


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    with httpx.Client(trust_env=False, timeout=2.0) as client:
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                # Not ready as a whole: there is no selector, which these edits do not need.
                if client.get(f"{url}/readyz").json()["workers"] > 0:
                    return
            time.sleep(0.2)
    raise TimeoutError(f"{url} was not ready within {READY_TIMEOUT_S:g} s")


MEASURES: dict[tuple[str, ...], Measure] = {("G5",): through_service}
