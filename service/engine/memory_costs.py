"""The budget of running edits, and what their rows cost, measured when an engine starts."""

import logging
from collections.abc import Callable, Sequence

import numpy as np

from service import errors
from service.engine.edit import Edit
from service.engine.memory_budget import MemoryBudget, RowCost
from service.engine.memory_measure import can_measure, free_bytes, peak_bytes
from service.engine.model_runner import ModelRunner
from service.engine.scheduler import MIN_FILL

log = logging.getLogger(__name__)

MIB = 2**20
SIDES = {"cpu": (256,), "cuda": (256, 512, 1024)}  # of the photos that are measured
FULL_SIDE = 512  # of those that fill a batch on CUDA before anything is measured
NUM_AHEAD = 3  # steps that the second measurement's SCB computes at once

Run = Callable[[Sequence[Edit]], bool]  # from start to end; False if one of them failed


def measured_budget(
    runner: ModelRunner, run: Run, max_batch_size: int, share: float, max_bytes: int
) -> MemoryBudget | None:
    """`max_bytes`, or, if that is 0, `share` of what is free once the engine is warm.

    None where nothing can be measured: no plugin to measure with, or a system that tells nothing.
    """
    device, plugin = runner.backbone.device, _largest_plugin(runner)
    if plugin is None or not can_measure(device):
        log.warning("what edits cost is not measured here: only their number is limited")
        return None
    if device.type == "cuda":  # graphs and buffers of full batches stay
        run(_edits(FULL_SIDE, plugin, NUM_AHEAD, max_batch_size))
    measured = (_cost_of(runner, run, side, plugin) for side in SIDES[device.type])
    costs = [cost for cost in measured if cost is not None]
    if not costs:
        raise errors.Unavailable("not even one small photo fits into the memory of this worker")
    room = max_bytes or int(share * max(0, free_bytes(device) - runner.store.bytes_to_come))
    told = ", ".join(f"{c.row_bytes / MIB:.0f} MiB at {c.pixels} pixels" for c in costs)
    log.info("%.0f MiB for edits; a row takes %s", room / MIB, told)
    return MemoryBudget(room, costs, 1 / MIN_FILL if runner.pads_batches else 1.0)


def _largest_plugin(runner: ModelRunner) -> str | None:
    sizes = {name: runner.store.get(name).num_bytes for name in runner.store.resident}
    return max(sizes, key=lambda name: sizes[name], default=None)


def _cost_of(runner: ModelRunner, run: Run, side: int, plugin: str) -> RowCost | None:
    """Of a square photo; None if there is no memory for it."""
    is_cuda = runner.backbone.device.type == "cuda"
    for _ in range(2 if is_cuda else 1):  # what is kept for good; a graph takes a second run
        if not run(_edits(side, plugin, 1)):
            return None
    device, num_rows = runner.backbone.device, runner.store.get(plugin).manifest.num_shifts
    one = peak_bytes(device, lambda: run(_edits(side, plugin, 1)))
    some = peak_bytes(device, lambda: run(_edits(side, plugin, NUM_AHEAD)))
    ahead = max(0, some - one) // (NUM_AHEAD - 1)
    return RowCost(side * side, one // num_rows, ahead // num_rows)


def _edits(side: int, plugin: str, steps: int, num: int = 1) -> list[Edit]:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return [Edit(f"warm-up {i}", pixels, (plugin,), steps) for i in range(num)]
