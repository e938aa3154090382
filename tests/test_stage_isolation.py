"""Plugins with output stages: a result is the same alone, mixed, joining, and beside an abort."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from service.engine.edit import Edit
from service.engine.engine import Engine
from service.engine.model_runner import ModelRunner
from service.engine.updates import EditDone, Update
from service.images import Pixels, UnitPixels
from service.models.backbone import Backbone
from service.models.output_stage import OutputStage
from service.models.plugin import Plugin, save_plugin
from service.models.plugin_store import PluginStore
from service.plugin_manifest import OutputStageConfig, plugin_folder
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin

LEVELS = 1 / 255  # between batches of different sizes, which run different kernels
Run = Callable[[Engine, Edit], UnitPixels]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    """Plugins with a stage, with one that sees noise, and without; calls are padded to buckets."""
    store = tmp_path_factory.mktemp("store")
    write_tiny_base(store)
    backbone = Backbone.load(store / BASE)
    for seed, (name, noise) in enumerate({"derain": False, "snow": True, "dehaze": None}.items()):
        write_tiny_plugin(store, name, seed, num_shifts=1)
        if noise is not None:
            add_stage(plugin_folder(store, BASE, name), backbone, noise)
    return ModelRunner(backbone, PluginStore(store, backbone), pads_batches=True)


def add_stage(folder: Path, backbone: Backbone, noise: bool) -> None:
    plugin = Plugin.load(folder, backbone)
    config = OutputStageConfig(channels=(8, 8, 12), noise=noise)
    stage = OutputStage(config)
    torch.nn.init.normal_(stage.conv_out.weight, std=0.1)
    torch.nn.init.normal_(stage.tone.head.weight, std=0.05)
    manifest = plugin.manifest.model_copy(update={"output_stage": config})
    save_plugin(folder, plugin.tpb, plugin.scb, manifest, "", stage)


@pytest.fixture
def engine(runner: ModelRunner) -> Engine:
    return Engine(runner, 4)


def photo(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (44, 60, 3), dtype=np.uint8)


def beside(number: int, plugin: str, steps: int = 4) -> Edit:
    return Edit(f"beside-{number}", photo(10 + number), (plugin,), steps, seed=number)


def drain(engine: Engine, updates: list[Update], edit: Edit) -> UnitPixels:
    while engine.has_work:
        updates += engine.step()
    (done,) = (u for u in updates if isinstance(u, EditDone) and u.id == edit.id)
    return done.restored


def alone(engine: Engine, edit: Edit) -> UnitPixels:
    engine.add(edit)
    return drain(engine, [], edit)


def mixed(engine: Engine, edit: Edit) -> UnitPixels:
    for one in (beside(0, "snow"), edit, beside(1, "dehaze"), beside(2, "derain")):
        engine.add(one)
    return drain(engine, [], edit)


def joining(engine: Engine, edit: Edit) -> UnitPixels:
    for number, plugin in enumerate(("dehaze", "derain", "snow")):
        engine.add(beside(number, plugin, steps=9))
    updates = engine.step() + engine.step()
    engine.add(edit)
    return drain(engine, updates, edit)


def beside_an_abort(engine: Engine, edit: Edit) -> UnitPixels:
    for one in (beside(0, "derain", 9), beside(1, "snow", 9), beside(2, "snow", 9), edit):
        engine.add(one)
    updates = engine.step() + engine.step()
    engine.abort("beside-1")
    engine.add(beside(3, "dehaze", 9))
    return drain(engine, updates, edit)


@pytest.mark.parametrize("plugin", ["derain", "snow"])
@pytest.mark.parametrize("run", [mixed, joining, beside_an_abort])
def test_a_result_is_that_of_the_edit_alone(engine: Engine, run: Run, plugin: str) -> None:
    edit = Edit("it", photo(1), (plugin,), steps=4, seed=7)
    expected = alone(engine, edit)
    assert np.abs(run(engine, edit) - expected).max() <= LEVELS
    assert np.abs(expected - photo(1) / 255).max() > 20 * LEVELS


@pytest.mark.parametrize("plugin", ["derain", "snow"])
def test_bits_are_the_same_within_one_bucket(engine: Engine, plugin: str) -> None:
    edit = Edit("it", photo(1), (plugin,), steps=4, seed=7)
    expected = joining(engine, edit)
    assert np.array_equal(joining(engine, edit), expected)
    assert np.array_equal(beside_an_abort(engine, edit), expected)
