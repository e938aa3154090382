"""Padded batches: the same results, the same bits within one size, and little padding."""

import numpy as np
import pytest

from service.engine.bucketed_step import BUCKETS, BucketedStep
from service.engine.edit import Edit
from service.engine.engine import Engine
from service.engine.model_runner import ModelRunner
from service.engine.updates import BatchDone, EditDone, Update
from service.images import Pixels
from service.models.backbone import Backbone
from service.models.plugin_store import PluginStore
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin

TOLERANCE_LEVELS = 1
PLUGINS = ("derain", "desnow", "dehaze")


@pytest.fixture(scope="module")
def runners(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelRunner, ModelRunner]:
    """One that pads and one that does not."""
    folder = tmp_path_factory.mktemp("store")
    write_tiny_base(folder)
    for seed, name in enumerate(PLUGINS):
        write_tiny_plugin(folder, name, seed)
    backbone = Backbone.load(folder / BASE)
    store = PluginStore(folder, backbone)
    return ModelRunner(backbone, store, pads_batches=True), ModelRunner(backbone, store)


@pytest.fixture
def engine(runners: tuple[ModelRunner, ModelRunner]) -> Engine:
    return Engine(runners[0], 8)


def edit(number: int, steps: int = 4) -> Edit:
    pixels = np.random.default_rng(number).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    return Edit(str(number), pixels, (PLUGINS[number % 3],), steps, seed=number)


def drain(engine: Engine, *edits: Edit) -> list[Update]:
    for one in edits:
        engine.add(one)
    updates: list[Update] = []
    while engine.has_work:
        updates += engine.step()
    return updates


def image(updates: list[Update], number: int) -> Pixels:
    return next(u.pixels for u in updates if isinstance(u, EditDone) and u.id == str(number))


def test_padding_changes_no_result(runners: tuple[ModelRunner, ModelRunner]) -> None:
    edits = [edit(number) for number in range(3)]
    padded, plain = (drain(Engine(runner, 8), *edits) for runner in runners)
    for number in range(3):
        difference = np.abs(image(padded, number).astype(int) - image(plain, number))
        assert difference.max() <= TOLERANCE_LEVELS


def test_bits_do_not_depend_on_who_shares_a_batch_of_one_size(engine: Engine) -> None:
    expected = image(drain(engine, edit(0), edit(1), edit(2)), 0)
    beside_others = drain(engine, edit(5, steps=6), edit(4), edit(0), edit(7, steps=5))
    assert (image(beside_others, 0) == expected).all()


def test_bits_do_not_depend_on_rows_that_join_or_leave_midway(engine: Engine) -> None:
    expected = image(drain(engine, edit(0), edit(1), edit(2)), 0)
    for one in (edit(0), edit(1), edit(2)):
        engine.add(one)
    engine.step()
    engine.add(edit(3))
    engine.step()
    engine.abort("1")
    updates = drain(engine)
    assert (image(updates, 0) == expected).all()
    sizes = [len(u.plugins) for u in updates if isinstance(u, BatchDone)]
    assert sizes[:2] == [3, 3]


@pytest.mark.parametrize("num_edits", [1, 3, 5, 6])
def test_little_of_a_call_is_padding(engine: Engine, num_edits: int) -> None:
    updates = drain(engine, *(edit(number) for number in range(num_edits)))
    sizes = [len(u.plugins) for u in updates if isinstance(u, BatchDone)]
    assert sum(sizes) == 4 * num_edits
    for size in sizes:
        assert size >= 0.75 * min(bucket for bucket in BUCKETS if bucket >= size)


def test_buffers_of_the_shapes_used_last_are_kept(
    runners: tuple[ModelRunner, ModelRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.engine.bucketed_step.MAX_KEPT", 2)
    step = runners[0].step
    assert isinstance(step, BucketedStep)
    engine = Engine(runners[0], 8)
    for side in (16, 32, 48, 16):
        drain(engine, Edit("a", np.zeros((side, side, 3), np.uint8), ("derain",), 2))
    assert len(step) <= 2
