"""Goals under arriving load: waits in steps, slots computed in vain, plugins swapped meanwhile."""

import statistics
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from loadtests.bench_bases import write_random_plugin
from loadtests.contenders import MAX_BATCH, Contenders, drain, images_of
from loadtests.engine_goals import Measure
from loadtests.goals import Result
from loadtests.side_by_side import Clock, quantile
from service.engine.edit import Edit
from service.engine.engine import Engine
from service.engine.model_runner import ModelRunner
from service.engine.updates import StepDone, Update
from service.interpreter import favour_steps
from service.plugin_manifest import PluginManifest, Published, read_manifest, version_folder

NUM_ARRIVALS = 40
SWAP_S = 0.5
NUM_SWAPS = 8
SPARE = "spare"  # the plugin that comes and goes
ROUNDS_OF_MAXIMA = 2  # a longest gap scatters more than a median one
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
    runner = shared
    if not shared.pads_batches:
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


@dataclass(frozen=True)
class Gaps:
    """Seconds from the end of a step to the end of the next."""

    plain: list[float]  # of 8 running edits, none of which was admitted or decoded in it
    others: list[float]


def hot_swap(contenders: Contenders, clock: Clock, rounds: int) -> list[Result]:
    """G7: every 0.5 s a plugin of a full engine is replaced, and one is added or removed.

    New versions are followed as a worker does it, in another thread; the next edits use them at
    once. The gaps that count are those of steps that admit and decode nobody, which costs the same
    with and without swaps; the value is the median of the rounds' longest. On a CPU they are CPU
    seconds of this process: what the loading thread uses counts as if the step had waited for it.
    """
    if contenders.base.name == "nano":
        return []  # the shipped plugins are not to be written to
    _write_versions(contenders)
    favour_steps()
    pairs = [
        (_gaps(contenders, clock, swaps=False), _gaps(contenders, clock, swaps=True))
        for _ in range(ROUNDS_OF_MAXIMA * rounds)
    ]
    detail = {
        "longest_gap_ms": [1e3 * max(swapped.plain) for _, swapped in pairs],
        "median_gap_ms": [1e3 * statistics.median(swapped.plain) for _, swapped in pairs],
        "longest_gap_without_swaps_ms": [1e3 * max(quiet.plain) for quiet, _ in pairs],
        "longest_gap_with_admissions_ms": [1e3 * max(swapped.others) for _, swapped in pairs],
        "the_same_without_swaps_ms": [1e3 * max(quiet.others) for quiet, _ in pairs],
        "num_steps": sum(len(swapped.plain) for _, swapped in pairs),
        "num_swaps": NUM_SWAPS * len(pairs),
        "failed": 0,
        "reference_reload_ms": 1e3 * _reload_seconds(contenders, clock),
    }
    return [
        Result("G7", statistics.median(_share_of_limit(swapped) for _, swapped in pairs), detail)
    ]


def _share_of_limit(gaps: Gaps) -> float:
    return max(gaps.plain) / (1.5 * statistics.median(gaps.plain) + SWAP_SLACK_S)


def _gaps(contenders: Contenders, clock: Clock, swaps: bool) -> Gaps:
    """Of an engine that is kept full; RuntimeError if an edit fails."""
    engine = contenders.engine()
    edits = contenders.edits(MAX_BATCH, 8)
    stop = threading.Event()
    swapper = threading.Thread(target=_swap, args=(engine, contenders, clock, stop))
    until = clock() + SWAP_S * NUM_SWAPS
    number, last, gaps = 0, clock(), Gaps([], [])
    if swaps:
        swapper.start()
    try:
        while clock() < until or engine.has_work:
            if engine.num_free_slots and clock() < until:  # one by one, so that all differ in step
                edit = edits[number % MAX_BATCH]
                engine.add(Edit(str(number), edit.pixels, edit.plugins, edit.steps, number))
                number += 1
            updates = engine.step()
            images_of(updates)
            now = clock()
            (gaps.plain if _is_plain(updates) else gaps.others).append(now - last)
            last = now
    finally:
        stop.set()
        if swaps:
            swapper.join()
    return gaps


def _is_plain(updates: list[Update]) -> bool:
    """8 edits made a step, none its first or last."""
    seen = [u.progress for u in updates if isinstance(u, StepDone)]
    return len(seen) == MAX_BATCH and all(1 < p.step < p.num_steps for p in seen)


def _write_versions(contenders: Contenders) -> None:
    """Two versions of every plugin, and of one that no edit uses, where published ones are kept."""
    base = contenders.base
    for seed, name in enumerate((*base.plugins, SPARE)):
        for version in (1, 2):
            folder = version_folder(base.store, base.name, name, f"1.0.{version}")
            if not folder.is_dir():
                write_random_plugin(base.store, base.name, name, seed, version, folder)


def _swap(engine: Engine, contenders: Contenders, clock: Clock, stop: threading.Event) -> None:
    base, current = contenders.base, dict[str, PluginManifest | None]()
    number, due = 0, clock() + SWAP_S
    while not stop.wait(0.01):
        if clock() < due:
            continue
        number, due = number + 1, due + SWAP_S
        for name in (base.plugins[number % len(base.plugins)], SPARE):
            folder = version_folder(base.store, base.name, name, f"1.0.{1 + number % 2}")
            current[name] = read_manifest(folder, is_named=False)
        if number % 2:
            current[SPARE] = None
        faults = engine.follow(Published(number, dict(current)))
        assert not faults, faults
    engine.follow(Published(number + 1))  # as it was


def _reload_seconds(contenders: Contenders, clock: Clock) -> float:
    contenders.reference.load_plugin(contenders.base.plugins[0])
    began = clock()
    contenders.reference.load_plugin(contenders.base.plugins[0])
    return clock() - began


MEASURES: dict[tuple[str, ...], Measure] = {
    ("G7",): hot_swap,
    ("G8", "G8b"): admission,
    ("G10",): occupancy,
}
