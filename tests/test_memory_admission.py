"""Admission by memory: costs are measured, running edits fit their budget, and nobody starves."""

from pathlib import Path

import numpy as np
import pytest
import torch

from service.engine.edit import Edit
from service.engine.engine import Engine, build_engine
from service.engine.memory_budget import Demand, MemoryBudget, RowCost
from service.engine.memory_measure import can_measure, free_bytes, peak_bytes
from service.engine.updates import BatchDone, EditDone, StepDone, Update
from service.errors import ImageTooLarge
from service.images import Pixels
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin

CPU = torch.device("cpu")
MIB = 2**20
SIDE, NUM_EDITS = 256, 8
BUDGET = 110 * MIB  # takes 3 to 5 rows, 8 take 160 MiB and more
PRICES = [RowCost(80 * 80, 10 * MIB, 0), RowCost(144 * 144, 50 * MIB, 0)]
NOISE = 12 * MIB  # of a measurement of resident memory

pytestmark = pytest.mark.skipif(not can_measure(CPU), reason="this system tells no peak of memory")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    write_tiny_base(folder)
    for seed, name in enumerate(("derain", "desnow"), start=1):
        write_tiny_plugin(folder, name, seed)
    return folder


@pytest.fixture
def engine(store: Path) -> Engine:
    return build_engine(store, BASE, "cpu", max_batch_size=8, num_threads=1)


def photo(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def add_photos(engine: Engine, num: int = NUM_EDITS, side: int = SIDE) -> None:
    for i in range(num):
        plugin = ("derain", "desnow")[i % 2]
        engine.add(Edit(f"{side}-{i}", photo(side, side, i), (plugin,), steps=2))


def drain(engine: Engine) -> list[Update]:
    updates: list[Update] = []
    while engine.has_work:
        updates += engine.step()
        if engine.edit_memory:
            assert engine.edit_memory["needed"] <= engine.edit_memory["budget"]
    return updates


def images_of(updates: list[Update]) -> dict[str, Pixels]:
    return {u.id: u.pixels for u in updates if isinstance(u, EditDone)}


def ended(updates: list[Update]) -> list[str]:
    return [u.id for u in updates if isinstance(u, EditDone)]


def most_rows(updates: list[Update]) -> int:
    return max(len(u.plugins) for u in updates if isinstance(u, BatchDone))


def test_a_peak_is_what_was_touched() -> None:
    taken = peak_bytes(CPU, lambda: np.ones(48 * MIB, np.uint8))
    assert abs(taken - 48 * MIB) < NOISE
    assert 0 < peak_bytes(CPU, lambda: None) + 1 < NOISE
    assert free_bytes(CPU) > 100 * MIB


def test_a_full_load_stays_within_its_budget_and_gives_the_same_results(engine: Engine) -> None:
    free: list[Update] = []
    limited: list[Update] = []

    def run(updates: list[Update]) -> None:
        add_photos(engine)
        updates.extend(drain(engine))

    without = peak_bytes(CPU, lambda: run(free))
    engine.limit_memory(0.9, BUDGET)
    within = peak_bytes(CPU, lambda: run(limited))
    assert within <= BUDGET + NOISE < without
    assert 2 <= most_rows(limited) < most_rows(free) == NUM_EDITS
    images = images_of(free)
    for edit_id, pixels in images_of(limited).items():
        assert np.abs(pixels.astype(int) - images.pop(edit_id)).max() <= 1
    assert not images


def test_a_share_of_the_free_memory_is_the_budget_if_none_is_given(engine: Engine) -> None:
    engine.limit_memory(0.01)
    budget = engine.edit_memory["budget"]
    assert 0.001 * free_bytes(CPU) < budget < 0.02 * free_bytes(CPU)


def test_what_waits_for_memory_is_told_and_keeps_no_place(engine: Engine) -> None:
    engine.limit_to(MemoryBudget(25 * MIB, PRICES))
    assert (engine.num_free_slots, engine.num_short_of_memory) == (8, 0)
    add_photos(engine, 4, 64)
    engine.step()
    assert engine.num_short_of_memory == 2
    assert engine.num_free_slots == 0
    assert most_rows(drain(engine)) == 2
    assert (engine.num_free_slots, engine.num_short_of_memory) == (8, 0)


def test_small_ones_pass_a_large_one_but_not_for_ever(engine: Engine) -> None:
    engine.limit_to(MemoryBudget(55 * MIB, PRICES))
    add_photos(engine, 2, 64)
    engine.step()
    engine.add(Edit("large", photo(128, 128), ("derain",), steps=3))
    number, order = 0, list[str]()
    while "large" not in order:
        if len(engine.scheduler) < 8:  # an endless stream of small photos
            engine.add(Edit(f"late-{number}", photo(64, 64), ("derain",), steps=3 + number % 2))
            number += 1
        order += ended(engine.step())
        assert number < 60, "the large photo starves"
    assert any(name.startswith("late") for name in order)


def test_a_photo_for_which_memory_can_never_do_is_refused_in_words(engine: Engine) -> None:
    engine.limit_to(MemoryBudget(4 * MIB, PRICES))
    with pytest.raises(ImageTooLarge, match=r"512x512 pixels need \d+ MiB .* 4 MiB .*fewer pixels"):
        engine.add(Edit("never", photo(512, 512), ("derain",), steps=3))
    assert not engine.has_work


def test_a_photo_that_does_not_fit_whole_is_restored_in_tiles(engine: Engine) -> None:
    engine.limit_to(MemoryBudget(150 * MIB, [RowCost(128 * 128, 10 * MIB, 0)]))
    engine.add(Edit("wide", photo(600, 640), ("derain",), steps=1))
    updates = drain(engine)
    steps = [u.progress for u in updates if isinstance(u, StepDone)]
    assert ended(updates) == ["wide"]
    assert steps[-1].num_steps > 1  # calls of tiles


def test_demands_grow_with_pixels_rows_and_steps() -> None:
    budget = MemoryBudget(1000, [RowCost(100, 10, 2), RowCost(400, 30, 5)])
    assert budget.demand(50, 1, 1, 0) == Demand(10, 0)
    assert budget.demand(101, 2, 3, 7) == Demand(67, 20)
    assert budget.demand(800, 1, 2, 0) == Demand(60, 10)
    assert budget.fits([Demand(400, 100), Demand(400, 200)])
    assert not budget.fits([Demand(400, 100), Demand(400, 201)])
    padded = MemoryBudget(1000, [RowCost(100, 10, 2)], padding=4 / 3)
    assert padded.demand(100, 3, 1, 0) == Demand(40, 0)
