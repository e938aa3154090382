"""Goals under arriving load: waits in steps, slots computed in vain, plugins swapped meanwhile."""

import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator

import numpy as np

from loadtests.bench_bases import write_random_plugin
from loadtests.contenders import MAX_BATCH, Contenders, drain, images_of
from loadtests.engine_goals import Measure
from loadtests.goals import Result
from loadtests.side_by_side import Clock, quantile
from service.engine.engine import Engine
from service.engine.model_runner import ModelRunner
from service.engine.trajectory import Edit
from service.engine.updates import EditFailed, StepDone

NUM_ARRIVALS = 40
SWAP_S = 0.5
NUM_SWAPS = 8
SWAP_SLACK_S = 0.005  # G7's limit is 1.5 median steps and this


def arrivals(load: float, steps: int, seed: int) -> list[float]:
    """Poisson arrivals in units of steps; at load 1 they need every slot of every step."""
    gaps = np.random.default_rng(seed).exponential(steps / (load * MAX_BATCH), NUM_ARRIVALS)
    return list(np.cumsum(gaps))


def admission(contenders: Contenders, clock: Clock, rounds: int) -> list[Result]:
    """G8: from arrival to first step, one engine step being the unit of time."""
    steps = contenders.base.steps
    times = arrivals(0.5, steps, seed=0)
    ours = statistics.mean(_waits(contenders, times))
    static = statistics.mean(_static_waits(times, steps))
    detail = {"num_edits": len(times), "static_steps": static}
    return [Result("G8", ours, detail), Result("G8b", static / ours, detail)]


def _waits(contenders: Contenders, times: list[float]) -> Iterator[float]:
    engine = contenders.engine()
    edits = contenders.edits(len(times), 8)
    waiting = deque(zip(times, edits, strict=True))
    arrived = {edit.id: at for at, edit in waiting}
    now = 0
    while waiting or engine.has_work:
        while waiting and waiting[0][0] <= now:
            engine.add(waiting.popleft()[1])
        for update in engine.step():
            if isinstance(update, StepDone) and update.progress.step == 1:
                yield now - arrived[update.id]
        now += 1


def _static_waits(times: list[float], steps: int) -> Iterator[float]:
    """A server that starts up to 8 requests together and takes no other until they end."""
    free, i = 0.0, 0
    while i < len(times):
        start = max(free, np.ceil(times[i]))
        batch = [t for t in times[i : i + MAX_BATCH] if t <= start]
        yield from (start - t for t in batch)
        free, i = start + steps, i + len(batch)


def occupancy(contenders: Contenders, clock: Clock, rounds: int) -> list[Result]:
    """G10: rows run / slots computed, calls being padded to buckets as on a GPU; and stalls."""
    shared = contenders.runner
    runner = ModelRunner(shared.backbone, shared.store, pads_batches=True)
    engine = Engine(runner, MAX_BATCH)
    drain(engine, contenders.edits(MAX_BATCH, 8))  # warms up
    runner.step.num_rows = runner.step.num_slots = 0
    steps = contenders.base.steps
    waiting = deque(
        zip(arrivals(0.7, steps, seed=1), contenders.edits(NUM_ARRIVALS, 8), strict=True)
    )
    gaps, now = [], 0
    while waiting or engine.has_work:
        while waiting and waiting[0][0] <= now:
            engine.add(waiting.popleft()[1])
        began = clock()
        images_of(engine.step())
        gaps.append(clock() - began)
        now += 1
    detail = {
        "rows": runner.step.num_rows,
        "slots": runner.step.num_slots,
        "p99_gap_over_median": quantile(gaps, 0.99) / statistics.median(gaps),
        "steps_until_a_canceled_slot_is_free": _steps_until_free(contenders),
    }
    return [Result("G10", runner.step.num_rows / runner.step.num_slots, detail)]


def _steps_until_free(contenders: Contenders) -> int:
    """Steps between an abort in a full engine and the first step of the edit that waited."""
    engine = contenders.engine()
    *running, late = contenders.edits(MAX_BATCH + 1, 8)
    for edit in (*running, late):
        engine.add(edit)
    engine.step()
    engine.abort(running[0].id)
    number = 0
    while not any(isinstance(u, StepDone) and u.id == late.id for u in engine.step()):
        number += 1
    for edit in (*running, late):
        engine.abort(edit.id)
    return number


def hot_swap(contenders: Contenders, clock: Clock, rounds: int) -> list[Result]:
    """G7: a plugin of a full engine is replaced every 0.5 s, and the new one used at once.

    Wall seconds between the ends of consecutive steps, with and without swaps.
    """
    if contenders.base.name == "nano":
        return []  # the shipped plugins are not to be written to
    quiet = _gaps(contenders, swaps=False)
    swapped = _gaps(contenders, swaps=True)
    limit = 1.5 * statistics.median(swapped) + SWAP_SLACK_S
    detail = {
        "longest_gap_ms": 1e3 * max(swapped),
        "median_gap_ms": 1e3 * statistics.median(swapped),
        "longest_gap_without_swaps_ms": 1e3 * max(quiet),
        "num_swaps": NUM_SWAPS,
        "failed": 0,
        "reference_reload_ms": 1e3 * _reload_seconds(contenders),
    }
    return [Result("G7", max(swapped) / limit, detail)]


def _gaps(contenders: Contenders, swaps: bool) -> list[float]:
    """Of steps in which a full batch runs; RuntimeError if an edit fails."""
    engine = contenders.engine()
    edits = contenders.edits(MAX_BATCH, 8)
    stop = threading.Event()
    swapper = threading.Thread(target=_swap, args=(contenders, stop)) if swaps else None
    until = time.perf_counter() + SWAP_S * NUM_SWAPS
    number, last, gaps = 0, time.perf_counter(), []
    if swapper:
        swapper.start()
    try:
        while time.perf_counter() < until or engine.has_work:
            while engine.num_free_slots and time.perf_counter() < until:
                edit = edits[number % MAX_BATCH]
                engine.add(Edit(str(number), edit.pixels, edit.plugins, edit.steps, number))
                number += 1
            updates = engine.step()
            if failed := [u for u in updates if isinstance(u, EditFailed)]:
                raise RuntimeError(f"an edit failed while plugins were swapped: {failed[0].error}")
            now = time.perf_counter()
            gaps.append(now - last)
            last = now
    finally:
        stop.set()
        if swapper:
            swapper.join()
    return gaps


def _swap(contenders: Contenders, stop: threading.Event) -> None:
    base = contenders.base
    version = 0
    while not stop.wait(SWAP_S):
        version += 1
        name = base.plugins[version % len(base.plugins)]
        write_random_plugin(base.store, base.name, name, seed=version, version=version)


def _reload_seconds(contenders: Contenders) -> float:
    began = time.perf_counter()
    contenders.reference.load_plugin(contenders.base.plugins[0])
    return time.perf_counter() - began


MEASURES: dict[tuple[str, ...], Measure] = {
    ("G7",): hot_swap,
    ("G8", "G8b"): admission,
    ("G10",): occupancy,
}
