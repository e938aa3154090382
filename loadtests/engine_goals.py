"""Goals of the engine alone: edits per second against others, SCB ahead of time, host work."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loadtests.baselines import scheduler_of, to_unit
from loadtests.contenders import MAX_BATCH, Contenders, drain
from loadtests.goals import Result, summary
from loadtests.side_by_side import Clock, ratio, side_by_side
from service.engine.complements import Complements
from service.engine.updates import StepDone
from service.images import Pixels

NUM_EDITS = 16
# Two that take nearly the same need more rounds than those that differ several times over.
ROUNDS_OF_EQUALS = 4
Measure = Callable[[Contenders, Clock, int], list[Result]]


def throughput(contenders: Contenders, clock: Clock, rounds: int) -> list[Result]:
    """G1, G2 and diffusers: the same edits, all there from the start."""
    mixed, single = contenders.edits(NUM_EDITS, 8), contenders.edits(NUM_EDITS, 1)
    ours, one_row = contenders.engine(), contenders.engine(1)
    reference, diffusers = contenders.reference, contenders.diffusers
    for edits in (mixed, single):
        diffusers.warm_up(edits)
    seconds = side_by_side(
        clock,
        {
            "ours, 8 plugins": lambda: drain(ours, mixed),
            "ours, 8 plugins, max_batch 1": lambda: drain(one_row, mixed),
            "reference, 8 plugins": lambda: reference.run(mixed),
            "ours, one plugin": lambda: drain(ours, single),
            "diffusers, 8 plugins": lambda: diffusers.run(mixed),
            "diffusers, one plugin": lambda: diffusers.run(single),
        },
        rounds,
    )
    detail = {"num_edits": NUM_EDITS, "is_compiled": diffusers.is_compiled} | summary(seconds)
    detail["largest_difference_levels"] = _difference(contenders)
    pairs = {
        "G1": ("ours, 8 plugins, max_batch 1", "ours, 8 plugins"),
        "G2": ("reference, 8 plugins", "ours, 8 plugins"),
        "D1": ("diffusers, 8 plugins", "ours, 8 plugins"),
        "D2": ("diffusers, one plugin", "ours, one plugin"),
    }
    return [Result(goal, ratio(seconds, *pair), detail) for goal, pair in pairs.items()]


def mixture(contenders: Contenders, clock: Clock, rounds: int) -> list[Result]:
    """G3: edits of eight plugins and of one, on the same engine."""
    engine = contenders.engine()
    mixed, single = contenders.edits(NUM_EDITS, 8), contenders.edits(NUM_EDITS, 1)
    seconds = side_by_side(
        clock,
        {
            "8 plugins": lambda: drain(engine, mixed),
            "one plugin": lambda: drain(engine, single),
        },
        ROUNDS_OF_EQUALS * rounds,
    )
    detail = {"num_edits": NUM_EDITS} | summary(seconds)
    return [Result("G3", ratio(seconds, "one plugin", "8 plugins"), detail)]


def _difference(contenders: Contenders) -> dict[str, int]:
    """Between our images and the others', in levels of 255; only where all start from noise."""
    edits = contenders.edits(8, 8)
    if contenders.runner.store.get(edits[0].plugins[0]).manifest.start != "noise":
        return {}
    done = drain(contenders.engine(), edits)
    ours = [done[edit.id] for edit in edits]
    return {
        "reference": _most(ours, contenders.reference.run(edits)),
        "diffusers": _most(ours, contenders.diffusers.run(edits)),
    }


def _most(ours: Sequence[Pixels], others: Sequence[Pixels]) -> int:
    pairs = zip(ours, others, strict=True)
    return max(int(np.abs(a.astype(int) - b).max()) for a, b in pairs)


@torch.inference_mode()
def scb_ahead(contenders: Contenders, clock: Clock, rounds: int) -> list[Result]:
    """G4: the SCB of all timesteps in one call, and in one call each; and that both agree."""
    runner, base = contenders.runner, contenders.base
    plugin = runner.store.get(base.plugins[0])
    edit = contenders.edits(1, 1)[0]
    timesteps = runner.noise_schedule.table(base.steps).timesteps.to(contenders.device)
    cond = runner.backbone.encode(to_unit(edit.pixels))
    tokens = plugin.tpb(runner.backbone.image_features([edit.pixels]))
    widths = runner.step_widths

    def ahead(max_bytes: int) -> list[Tensor]:
        """With max_bytes 1 every step is a window, so a call, of its own."""
        complements = Complements(plugin, cond, timesteps, tokens, widths, max_bytes)
        return [complements.at(step) for step in range(base.steps)]

    seconds = side_by_side(
        clock,
        {
            "one call": lambda: [ahead(2**40) for _ in range(5)],
            "one call per step": lambda: [ahead(1) for _ in range(5)],
        },
        rounds,
    )
    pairs = zip(ahead(2**40), ahead(1), strict=True)
    difference = max(float((a - b).abs().max()) for a, b in pairs)
    detail = summary(seconds) | {"largest_difference": difference}
    return [Result("G4", ratio(seconds, "one call per step", "one call"), detail)]


def host_work(contenders: Contenders, clock: Clock, rounds: int) -> list[Result]:
    """G9: CPU of a step of 8 rows without the UNet, and of scheduler.step for 8 requests."""
    engine, unet = contenders.engine(), contenders.runner.backbone.unet
    in_unet = _Stopwatch(unet.forward)
    unet.forward = in_unet
    try:
        ours = [s for _ in range(rounds) for s in _host_seconds(contenders, engine, in_unet)]
    finally:
        del unet.forward
    theirs = [s for _ in range(rounds) for s in _scheduler_seconds(contenders)]
    mine, others = statistics.median(ours), statistics.median(theirs)
    detail = {"ours_ms": 1e3 * mine, "diffusers_ms": 1e3 * others, "num_steps": len(ours)}
    return [Result("G9", others / mine, detail)]


class _Stopwatch:
    """A function that adds up the CPU seconds spent in it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function, self.seconds = function, 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        began = time.thread_time()
        result = self._function(*args, **kwargs)
        self.seconds += time.thread_time() - began
        return result


def _host_seconds(contenders: Contenders, engine: Any, in_unet: _Stopwatch) -> list[float]:
    """Of each step in which 8 edits do nothing but denoise, without the UNet's own."""
    for edit in contenders.edits(MAX_BATCH, 8):
        engine.add(edit)
    seconds: list[float] = []
    while engine.has_work:
        in_unet.seconds = 0.0
        began = time.thread_time()
        updates = engine.step()
        spent = time.thread_time() - began - in_unet.seconds
        steps = [u.progress.step for u in updates if isinstance(u, StepDone)]
        if len(steps) == MAX_BATCH and min(steps) > 1 and max(steps) < contenders.base.steps:
            seconds.append(spent)
    return seconds


def _scheduler_seconds(contenders: Contenders) -> list[float]:
    """Of scheduler.step of 8 requests, one call each, at every step but the first and the last."""
    backbone = contenders.runner.backbone
    schedulers = [scheduler_of(backbone, contenders.base.steps) for _ in range(MAX_BATCH)]
    side = contenders.base.side // backbone.patch_size
    shape = (1, backbone.unet.config["in_channels"], side, side)
    samples = [torch.randn(shape, device=contenders.device) for _ in schedulers]
    seconds: list[float] = []
    for t in schedulers[0].timesteps:
        outputs = [torch.randn_like(sample) for sample in samples]
        began = time.thread_time()
        rows = zip(schedulers, outputs, samples, strict=True)
        samples = [s.step(output, t, x).prev_sample for s, output, x in rows]
        seconds.append(time.thread_time() - began)
    return seconds[1:-1]


MEASURES: dict[tuple[str, ...], Measure] = {
    ("G1", "G2", "D1", "D2"): throughput,
    ("G3",): mixture,
    ("G4",): scb_ahead,
    ("G9",): host_work,
}
