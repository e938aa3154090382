"""Tiles of large photos: they cover, they blend without a seam, and run through the engine."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from service.engine import large_photo
from service.engine.canvas import Canvas, tiles_of
from service.engine.edit import Edit
from service.engine.engine import Engine, build_engine
from service.engine.large_photo import window_of
from service.engine.sampling import SamplerState
from service.engine.sizes import brought_back, enlarged, reduced
from service.engine.tiles import Axis, cut
from service.engine.tone import take_tone
from service.engine.updates import EditDone, EditFailed, StepDone, TaskDone, Update
from service.images import Pixels, UnitPixels
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin

SIDE, OVERLAP = 128, 32
MAX_PIXELS = 128 * 128


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    write_tiny_base(folder)
    write_tiny_plugin(folder, "derain", 1, default_steps=2, num_shifts=2)
    write_tiny_plugin(folder, "desnow", 2, default_steps=1)
    return folder


@pytest.fixture
def engine(store: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """One that cuts small photos already, for speed."""
    monkeypatch.setattr(large_photo, "TILE_SIDE", SIDE)
    monkeypatch.setattr(large_photo, "TILE_OVERLAP", OVERLAP)
    return build_engine(store, BASE, "cpu", 4, 1, MAX_PIXELS)


def photo(height: int, width: int, seed: int = 1) -> Pixels:
    """Smooth, with a little noise, so that a seam would be the sharpest thing in it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = 110 + 60 * np.sin(x / 70 + 1)[..., None] + 50 * np.cos(y[..., None] / 90 + np.arange(3))
    return np.clip(waves + rng.normal(0, 2, (height, width, 3)), 0, 255).astype(np.uint8)


def drain(engine: Engine) -> list[Update]:
    updates: list[Update] = []
    while engine.has_work:
        updates += engine.step()
    return updates


def results(updates: list[Update]) -> dict[str, UnitPixels]:
    return {u.id: u.restored for u in updates if isinstance(u, EditDone)}


@pytest.mark.parametrize("length", [16, 30, 32, 34, 62, 100, 958])
def test_tiles_cover_a_side_and_their_weights_sum_to_one(length: int) -> None:
    axis = cut(length, side=32, overlap=6, multiple=2)
    total = torch.zeros(length)
    for start, weights in zip(axis.starts, axis.weights, strict=True):
        total[start : start + axis.size] += weights
    torch.testing.assert_close(total, torch.ones(length))
    assert axis.size <= 32 and all(start % 2 == 0 for start in axis.starts)
    pairs = zip(axis.starts, axis.starts[1:], strict=False)
    assert all(first + axis.size - second >= 6 for first, second in pairs)
    finer = axis.scaled(8)
    assert finer.starts == tuple(8 * start for start in axis.starts)


def test_a_tile_counts_least_at_its_borders() -> None:
    weights = cut(100, side=32, overlap=8, multiple=2).weights
    assert weights[1, 0] < 0.05 and weights[1, -1] < 0.05
    assert weights[1].max() == 1
    assert weights[0, 0] == 1 and weights[-1, -1] == 1  # the photo's own borders have no neighbour


def canvas_of(x: Tensor, has_history: bool) -> Canvas:
    down, across = (cut(n, 16, 4, 2) for n in x.shape[1:])
    return Canvas(tiles_of(down, across, x.device), x.clone(), x.clone(), 3, has_history)


@pytest.mark.parametrize("has_history", [False, True])
def test_what_treats_every_place_alike_gives_the_same_in_tiles_as_whole(has_history: bool) -> None:
    x = torch.randn(3, 40, 26)
    canvas = canvas_of(x, has_history)

    def step(state: SamplerState) -> SamplerState:
        return SamplerState(0.5 * state.x + state.previous + 1, state.x, state.m1 - 1, state.m1)

    whole = SamplerState.start(x[None])
    for _ in range(3):
        is_complete = False
        while not is_complete:
            state, cond = canvas.rows()
            assert len(state.x) <= 3 and cond.shape == state.x.shape
            is_complete = canvas.accept(step(state))
        whole = step(whole if has_history else SamplerState.start(whole.x))
    torch.testing.assert_close(canvas.x, whole.x[0])


def test_tiles_that_disagree_are_blended_at_every_step() -> None:
    canvas = canvas_of(torch.zeros(1, 16, 28), has_history=False)  # two tiles side by side
    state, _ = canvas.rows()
    state.x[1] += 1.0
    assert canvas.accept(state)
    row = canvas.x[0, 8]
    assert row[:12].max() == 0 and row[16:].min() == 1
    steps = row[11:17].diff()
    assert (steps > 0).all() and steps.max() < 0.45


def test_windows_of_a_moved_photo_repeat_its_edges() -> None:
    pixels = photo(20, 30)
    window = window_of(pixels, (4, 4), slice(0, 32), slice(8, 40))
    assert window.shape == (32, 32, 3)
    np.testing.assert_array_equal(window[4:24, :26], pixels[:, 4:])
    np.testing.assert_array_equal(window[0], window[4])
    np.testing.assert_array_equal(window[:, -1], window[:, 25])


def test_a_large_photo_comes_back_whole_and_others_go_on_meanwhile(engine: Engine) -> None:
    engine.add(Edit("large", photo(150, 260), ("derain",)))
    for number in range(3):
        engine.add(Edit(str(number), photo(64, 64), ("desnow",)))
    updates = drain(engine)
    assert results(updates)["large"].shape == (150, 260, 3)
    ends = [u.id for u in updates if isinstance(u, EditDone)]
    assert ends[-1] == "large" and len(ends) == 4
    steps = [u.progress for u in updates if isinstance(u, StepDone) and u.id == "large"]
    assert [p.step for p in steps] == sorted(p.step for p in steps)


def test_only_one_large_photo_takes_memory_at_a_time(engine: Engine) -> None:
    for name in ("first", "second"):
        engine.add(Edit(name, photo(150, 150), ("desnow",)))
    engine.add(Edit("small", photo(64, 64), ("desnow",)))
    updates = drain(engine)
    assert [u.id for u in updates if isinstance(u, EditDone)] == ["small", "first", "second"]
    order = [u.id for u in updates if isinstance(u, StepDone) and u.id != "small"]
    assert order == sorted(order)


def test_a_large_photo_goes_on_with_its_next_task(engine: Engine) -> None:
    engine.add(Edit("a", photo(150, 150), ("desnow", "derain"), steps=1))
    updates = drain(engine)
    (between,) = (u for u in updates if isinstance(u, TaskDone))
    engine.add(Edit("b", between.pixels, ("desnow", "derain"), steps=1, num_done=1))
    resumed = results(drain(engine))["b"]
    assert np.abs(resumed - results(updates)["a"]).max() < 1 / 255


def test_an_aborted_large_photo_leaves_at_once(engine: Engine) -> None:
    engine.add(Edit("large", photo(150, 260), ("derain",)))
    while engine.scheduler.tiling() is None:
        engine.step()
    engine.step()
    engine.abort("large")
    assert not engine.has_work


def seam_ratio(image: UnitPixels, columns: list[int]) -> float:
    """The mean step at these columns against that at their neighbours, worst of all."""
    steps = np.abs(np.diff(image.mean(-1), axis=1)).mean(0)
    near = [np.r_[c - 20 : c - 3, c + 3 : c + 20] for c in columns]
    return max(float(steps[c - 1] / steps[n].mean()) for c, n in zip(columns, near, strict=True))


def test_no_seam_is_seen_at_the_borders_of_tiles(engine: Engine) -> None:
    pixels = photo(128, 300)
    engine.add(Edit("a", pixels, ("desnow",)))
    restored = results(drain(engine))["a"]
    axis = cut(304 // 8, SIDE // 8, OVERLAP // 8, 2).scaled(8)
    borders = [*axis.starts[1:], *(s + axis.size for s in axis.starts[:-1])]
    # The codec's 8-pixel grid shows in a network of random weights: compare like with like.
    assert all(b % 8 == 0 for b in borders)
    others = [c for c in range(24, 280, 8) if min(abs(c - b) for b in borders) > 8]
    assert seam_ratio(restored, borders) < 1.3 * seam_ratio(restored, others)


@pytest.mark.parametrize("shift", [-0.08, 0.05])
def test_tiles_of_another_tone_take_that_of_the_overview(shift: float) -> None:
    truth = photo(400, 600).astype(np.float32) / 255
    tiled = truth.copy()
    tiled[100:300, 200:400] += shift  # a rectangle that is lighter or darker
    overview = reduced(np.rint(truth * 255).astype(np.uint8), 150 * 100).astype(np.float32) / 255
    result = take_tone(tiled, overview)
    inside = result[140:260, 240:360] - truth[140:260, 240:360].clip(0, 1)
    assert np.abs(inside).mean() < abs(shift) / 8
    detail = np.diff(result[150, 250:350, 0]) - np.diff(truth[150, 250:350, 0])
    assert np.abs(detail).max() < 0.02  # what is finer than the overview stays


def fail_once(times: int, error: Exception, work: Callable[..., object]) -> Callable[..., object]:
    left = [times]

    def failing(*args: object) -> object:
        if left[0]:
            left[0] -= 1
            raise error
        return work(*args)

    return failing


@pytest.mark.parametrize("method", ["prepare", "denoise", "decode", "advance_tiles"])
def test_when_memory_runs_out_a_task_is_done_once_more_in_smaller_tiles(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    size = (150, 150) if method == "advance_tiles" else (100, 120)
    out = torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(engine.runner, method, fail_once(1, out, getattr(engine.runner, method)))
    engine.add(Edit("a", photo(*size), ("desnow",)))
    updates = drain(engine)
    assert results(updates)["a"].shape == (*size, 3)
    assert any(isinstance(u, StepDone) and u.progress.num_steps > 1 for u in updates)


def test_memory_that_runs_out_again_fails_the_edit(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(engine.runner, "finish", fail_once(2, out, engine.runner.finish))
    engine.add(Edit("a", photo(100, 100), ("desnow",)))
    (failed,) = (u for u in drain(engine) if isinstance(u, EditFailed))
    assert "memory" in str(failed.error)


@pytest.mark.parametrize("size", [(1, 1), (5, 200), (20, 31), (2000, 1)])
def test_tiny_photos_are_enlarged_and_brought_back(engine: Engine, size: tuple[int, int]) -> None:
    engine.add(Edit("a", photo(*size), ("desnow",), steps=1))
    assert results(drain(engine))["a"].shape == (*size, 3)


def test_enlarging_and_back_changes_nothing_that_the_models_leave_alone() -> None:
    small = photo(10, 23)
    large = enlarged(small)
    assert min(large.shape[:2]) == 32 and abs(large.shape[1] / large.shape[0] - 2.3) < 0.05
    unchanged = brought_back(small, large, large.astype(np.float32) / 255)
    np.testing.assert_allclose(unchanged, small.astype(np.float32) / 255, atol=1e-6)
    brighter = brought_back(small, large, large.astype(np.float32) / 255 + 0.1)
    np.testing.assert_allclose(brighter, small.astype(np.float32) / 255 + 0.1, atol=1e-5)
    ordinary = photo(40, 40)
    assert enlarged(ordinary) is ordinary


def test_axes_that_were_made_by_hand_sum_to_one_where_three_tiles_meet() -> None:
    axis = Axis.of(20, 12, (0, 4, 8))
    total = torch.zeros(20)
    for start, weights in zip(axis.starts, axis.weights, strict=True):
        total[start : start + 12] += weights
    torch.testing.assert_close(total, torch.ones(20))
