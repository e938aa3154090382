"""The engine: rows of any plugin at any step share calls and never disturb each other."""

from pathlib import Path

import numpy as np
import pytest

from service.engine.edit import Edit
from service.engine.engine import Engine, build_engine
from service.engine.trajectory import Trajectory
from service.engine.updates import BatchDone, EditDone, EditFailed, StepDone, TaskDone, Update
from service.errors import InvalidRequest, UnknownPlugin
from service.images import Pixels
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin

# Batch sizes choose different convolution kernels, so rows differ in the last bits; after rounding
# to 8 bits that is at most one level.
TOLERANCE_LEVELS = 1


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    write_tiny_base(folder)
    for seed, name in enumerate(("derain", "desnow", "dehaze"), start=1):
        write_tiny_plugin(folder, name, seed, num_shifts=2 if name == "dehaze" else 1)
    return folder


@pytest.fixture
def engine(store: Path) -> Engine:
    return build_engine(store, BASE, "cpu", max_batch_size=4, num_threads=1)


def photo(seed: int, height: int = 44, width: int = 60) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def drain(engine: Engine) -> list[Update]:
    updates: list[Update] = []
    while engine.has_work:
        updates += engine.step()
    return updates


def run_alone(engine: Engine, edit: Edit) -> Pixels:
    engine.add(edit)
    return results(drain(engine))[edit.id]


def results(updates: list[Update]) -> dict[str, Pixels]:
    return {u.id: u.pixels for u in updates if isinstance(u, EditDone)}


def assert_same(a: Pixels, b: Pixels) -> None:
    assert np.abs(a.astype(int) - b.astype(int)).max() <= TOLERANCE_LEVELS


def test_mixed_plugins_share_calls_and_equal_themselves_alone(engine: Engine) -> None:
    edits = [
        Edit("a", photo(1), ("derain",), seed=1),
        Edit("b", photo(2), ("desnow",), seed=2),
        Edit("c", photo(3), ("dehaze", "derain"), steps=3, seed=3),
    ]
    alone = {edit.id: run_alone(engine, edit) for edit in edits}
    for edit in edits:
        engine.add(edit)
    updates = drain(engine)
    shared = [set(u.plugins) for u in updates if isinstance(u, BatchDone)]
    assert {"derain", "desnow", "dehaze"} in shared
    for edit in edits:
        assert_same(results(updates)[edit.id], alone[edit.id])


def test_a_row_that_joins_midway_changes_nobody(engine: Engine) -> None:
    first, late = (
        Edit("a", photo(1), ("derain",), steps=6),
        Edit("b", photo(2), ("desnow",), steps=6),
    )
    alone = {edit.id: run_alone(engine, edit) for edit in (first, late)}
    engine.add(first)
    updates = engine.step() + engine.step()
    engine.add(late)
    updates += drain(engine)
    assert [len(u.plugins) for u in updates if isinstance(u, BatchDone)] == [1, 1, 2, 2, 2, 2, 1, 1]
    assert_same(results(updates)["a"], alone["a"])
    assert_same(results(updates)["b"], alone["b"])


def test_plugins_change_the_image_in_their_own_way(engine: Engine) -> None:
    pixels = photo(1)
    one = run_alone(engine, Edit("a", pixels, ("derain",)))
    other = run_alone(engine, Edit("b", pixels, ("desnow",)))
    assert np.abs(one.astype(int) - pixels).mean() > 1
    assert np.abs(one.astype(int) - other).mean() > 1


def test_the_output_has_the_input_size_for_any_size(engine: Engine) -> None:
    for height, width in ((16, 16), (17, 31), (33, 64)):
        assert run_alone(engine, Edit("a", photo(1, height, width), ("derain",))).shape == (
            height, width, 3,
        )  # fmt: skip


def test_shapes_take_turns_so_none_starves(engine: Engine) -> None:
    for number in range(2):
        engine.add(Edit(f"small{number}", photo(number, 32, 32), ("derain",), steps=5))
    engine.add(Edit("large", photo(9, 48, 48), ("desnow",), steps=5))
    order = [u.plugins for u in drain(engine) if isinstance(u, BatchDone)]
    assert order == [("derain", "derain"), ("desnow",)] * 5


def test_places_of_edits_that_are_about_to_leave_count_as_free(engine: Engine) -> None:
    for number in range(4):
        engine.add(Edit(str(number), photo(number), ("derain",), steps=3 + number % 2))
    engine.add(Edit("sequence", photo(9), ("derain", "desnow"), steps=3))
    free = []
    while engine.has_work:
        free.append(engine.num_free_slots)
        engine.step()
    assert free[:4] == [0, 1, 3, 3]


def test_no_more_rows_run_than_the_batch_allows(engine: Engine) -> None:
    for number in range(6):
        engine.add(Edit(str(number), photo(number), ("derain",)))
    assert engine.num_free_slots == 0
    updates = drain(engine)
    assert max(len(u.plugins) for u in updates if isinstance(u, BatchDone)) == 4
    assert len(results(updates)) == 6


def test_progress_counts_tasks_and_steps(engine: Engine) -> None:
    engine.add(Edit("a", photo(1), ("derain", "desnow"), steps=2))
    seen = [u.progress for u in drain(engine) if isinstance(u, StepDone)]
    assert [(p.plugin, p.task, p.step) for p in seen] == [
        ("derain", 1, 1), ("derain", 1, 2), ("desnow", 2, 1), ("desnow", 2, 2),
    ]  # fmt: skip
    assert all(p.num_tasks == 2 and p.num_steps == 2 for p in seen)


def test_an_edit_resumed_after_any_task_ends_as_if_it_had_never_stopped(engine: Engine) -> None:
    plugins = ("derain", "desnow", "dehaze")
    engine.add(Edit("whole", photo(1), plugins, steps=2, seed=5))
    updates = drain(engine)
    between = {u.task: u.pixels for u in updates if isinstance(u, TaskDone)}
    assert list(between) == [1, 2]
    for num_done, pixels in between.items():
        wishes = {"steps": 2, "seed": 5, "num_done": num_done, "resumed": pixels}
        engine.add(Edit("resumed", photo(1), plugins, **wishes))
        resumed = drain(engine)
        tasks = [u.progress.task for u in resumed if isinstance(u, StepDone)]
        assert tasks == [task for task in range(num_done + 1, 4) for _ in range(2)]
        assert_same(results(resumed)["resumed"], results(updates)["whole"])


def test_an_edit_with_nothing_left_to_do_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidRequest):
        engine.add(Edit("done", photo(1), ("derain",), num_done=1))


def test_an_aborted_edit_leaves_at_once_and_alone(engine: Engine) -> None:
    kept = Edit("kept", photo(1), ("derain",))
    alone = run_alone(engine, kept)
    engine.add(kept)
    engine.add(Edit("gone", photo(2), ("desnow",)))
    engine.step()
    engine.abort("gone")
    updates = drain(engine)
    assert list(results(updates)) == ["kept"]
    assert not any("desnow" in u.plugins for u in updates if isinstance(u, BatchDone))
    assert_same(results(updates)["kept"], alone)


def test_a_row_that_breaks_the_batch_fails_alone(engine: Engine) -> None:
    good = [Edit(str(n), photo(n), ("derain",)) for n in range(3)]
    alone = {edit.id: run_alone(engine, edit) for edit in good}
    bad = Edit("bad", photo(9), ("desnow",))
    for edit in (*good, bad):
        engine.add(edit)
    engine.step()
    break_complements(engine, "bad")
    updates = drain(engine)
    assert [u.id for u in updates if isinstance(u, EditFailed)] == ["bad"]
    for edit in good:
        assert_same(results(updates)[edit.id], alone[edit.id])
    assert not engine.has_work


def break_complements(engine: Engine, edit_id: str) -> None:
    """Take from one running row what its plugin adds to the next steps."""
    batch: list[Trajectory] = engine.scheduler.schedule()
    row = next(t for t in batch if t.edit.id == edit_id)
    row.step += 100


def test_unknown_plugins_are_refused_before_anything_runs(engine: Engine) -> None:
    with pytest.raises(UnknownPlugin, match="unheard"):
        engine.add(Edit("a", photo(1), ("derain", "unheard")))
    with pytest.raises(InvalidRequest):
        engine.add(Edit("b", photo(1), ()))
    assert not engine.has_work


def test_a_seed_gives_the_same_image_again_and_another_a_different_one(engine: Engine) -> None:
    one = run_alone(engine, Edit("a", photo(1), ("derain",), seed=5))
    again = run_alone(engine, Edit("a", photo(1), ("derain",), seed=5))
    other = run_alone(engine, Edit("a", photo(1), ("derain",), seed=6))
    assert (one == again).all()
    assert (one != other).any()


def test_a_replaced_plugin_serves_new_edits_and_leaves_running_ones(tmp_path: Path) -> None:
    write_tiny_base(tmp_path)
    write_tiny_plugin(tmp_path, "derain", seed=1)
    engine = build_engine(tmp_path, BASE, "cpu", max_batch_size=4, num_threads=1)
    before = run_alone(engine, Edit("before", photo(1), ("derain",)))
    engine.add(Edit("running", photo(1), ("derain",)))
    engine.step()
    write_tiny_plugin(tmp_path, "derain", seed=2)
    engine.add(Edit("new", photo(1), ("derain",)))
    done = results(drain(engine))
    assert_same(done["running"], before)
    assert np.abs(done["new"].astype(int) - before).max() > TOLERANCE_LEVELS
