"""A service on imported plugins: an edit through HTTP is what the engine makes of it alone."""

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from service.engine.edit import Edit
from service.engine.engine import build_engine
from service.engine.updates import EditDone
from service.images import encode
from service.launch import running_service
from service.models.base_files import read_sources, write_sources
from service.plugin_import import LICENCE, import_released
from tests.released_tree import build_released, write_released

BASE = "sd-tiny"
START_TIMEOUT_S = 300.0  # on a busy machine; seconds on a free one
pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released")
    write_released(folder / "tree", build_released(3, ("derain", "lowlight")))
    import_released(folder / "tree", folder / "store", BASE)
    root = folder / "store" / BASE
    write_sources(root, read_sources(root).model_copy(update={"min_side": 64}))
    return folder / "store"


@pytest.fixture(scope="module")
def client(store: Path) -> Iterator[httpx.Client]:
    settings = {
        "DIFFPLUGIN_PLUGINS_STORE": str(store),
        "DIFFPLUGIN_BASE": BASE,
        "DIFFPLUGIN_PRESET": "reference",
        "DIFFPLUGIN_DEVICE": "cpu",
        "DIFFPLUGIN_NUM_THREADS": "1",
        "DIFFPLUGIN_GRPC_PORT": "0",
    }
    with (
        running_service(store / "serve.log", START_TIMEOUT_S, settings) as service,
        httpx.Client(base_url=service.url, timeout=120, trust_env=False) as client,
    ):
        yield client


def test_an_edit_is_the_engines_in_the_networks_size(client: httpx.Client, store: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (63, 41, 3), dtype=np.uint8)
    answer = client.post(
        "/v1/edit",
        files={"image": ("photo.png", encode(pixels, "png"), "image/png")},
        data={"plugins": "derain", "steps": "2", "seed": "7"},
    )
    assert answer.status_code == 200, answer.text
    result = np.asarray(Image.open(io.BytesIO(answer.content)))
    engine = build_engine(store, BASE, "cpu", 1, num_threads=1, preset="reference")
    engine.add(Edit("alone", pixels, ("derain",), 2, seed=7))
    done = [update for _ in range(3) for update in engine.step() if isinstance(update, EditDone)]
    assert result.shape == (96, 64, 3) == done[0].pixels.shape  # 98 floored to the grid of 4
    assert np.abs(result.astype(int) - done[0].pixels).max() <= 1


def test_plans_come_from_the_released_selector_and_plugins_tell_their_licence(
    client: httpx.Client,
) -> None:
    files = {"image": ("photo.png", encode(np.zeros((40, 40, 3), np.uint8), "png"), "image/png")}
    plan = client.post("/v1/plan", files=files, data={"instruction": "remove the rain"})
    assert set(plan.json()["plan"]["scores"]) == {"derain", "lowlight", "null"}
    listed = client.get("/v1/plugins").json()["plugins"]
    assert {plugin["licence"] for plugin in listed} == {LICENCE}
