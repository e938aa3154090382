"""A thirteenth plugin: one command trains it while the service runs, and the service finds it."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from service.client import Client
from tests.test_serve import Served, free_port  # noqa: F401  it is a fixture
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin

SHIPPED = Path("plugins_store").resolve()
ASKED = "please get rid of the blocky jpeg artifacts"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A tiny base with two plugins, and the selector and mapping table that ship."""
    store = tmp_path / "store"
    write_tiny_base(store)
    for seed, name in enumerate(("derain", "dehaze")):
        write_tiny_plugin(store, name, seed)
    (store / BASE / "selector").symlink_to(SHIPPED / "nano" / "selector")
    (store / "mapping.yaml").symlink_to(SHIPPED / "mapping.yaml")
    return store


@pytest.fixture
def served(free_port: int, tmp_path: Path, store: Path) -> Iterator[Served]:  # noqa: F811
    served = Served(free_port, tmp_path / "serve.log", store)
    yield served
    if served.has_processes():
        os.killpg(served.process.pid, signal.SIGKILL)
    served.process.wait(10)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        rng = np.random.default_rng(number)
        coarse = rng.integers(0, 256, (5, 5, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), cv2.resize(coarse, (96, 96)))
    return folder


def digests(store: Path) -> dict[str, str]:
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in store.rglob("*")
        if path.is_file()
    }


def train(store: Path, photos: Path, run_dir: Path) -> None:
    """The one command, as short as it can be."""
    command = [sys.executable, "-m", "service.cli", "train", "plugin", "dejpeg"]
    command += ["--images", str(photos), "--run-dir", str(run_dir), "--base", BASE]
    command += ["--steps", "2", "--batch-size", "2", "--size", "32", "--stage-steps", "0"]
    environment = {**os.environ, "DIFFPLUGIN_PLUGINS_STORE": str(store)}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=240)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_plugin_trained_by_one_command_is_found_by_a_running_service(
    served: Served, store: Path, photos: Path, tmp_path: Path
) -> None:
    served.wait_for("/readyz")
    picture = photos / "0.png"
    with Client(served.url) as client:
        assert client.edit(picture, ASKED).no_op
        before = digests(store)
        derained = client.edit(picture, "remove the rain", seed=1)
        train(store, photos, tmp_path / "run")
        after = digests(store)
        assert {name: after[name] for name in before} == before
        folder = f"{BASE}/plugins/dejpeg/"
        assert {name for name in after if name not in before} == {
            folder + name for name in ("README.md", "manifest.json", "weights.safetensors")
        }
        dejpegged = client.edit(picture, ASKED)
        assert [task.plugin for task in dejpegged.plan.tasks] == ["dejpeg"]
        assert not dejpegged.no_op
        both = client.plan(picture, "clear the fog, then remove the jpeg artifacts")
        assert [task.plugin for task in both.tasks] == ["dehaze", "dejpeg"]
        again = client.edit(picture, "remove the rain", seed=1)
        assert again.image == derained.image and again.plan.runnable == ("derain",)
