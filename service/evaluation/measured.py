"""Restored pictures against their truth and against the classical methods of their task."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from service.evaluation.cases import Case
from service.evaluation.classical import classical_methods
from service.evaluation.engine_restore import Restore
from service.evaluation.metrics import ciede2000, gmsd, mean_psnr, psnr, ssim, to_image, to_pixels
from service.evaluation.perceptual import ms_ssim, perceptual
from service.training.degradations import Image

CHUNK = 8  # photos restored in one call
COLOUR_TASK = "colorize"  # its lightness is given: what counts is the colour


@dataclass(frozen=True)
class Measured:
    """One case after restoration: metrics by name, and those of every classical method."""

    case: Case
    output: Image
    before: dict[str, float]
    after: dict[str, float]
    classical: dict[str, dict[str, float]]  # by metric, then by method


def restored(
    cases: Iterable[Case], plugins: tuple[str, ...], restore: Restore
) -> Iterator[tuple[Case, Image]]:
    """Every case with its output; a few go through the engine together."""
    waiting: list[Case] = []
    for case in cases:
        waiting.append(case)
        if len(waiting) == CHUNK:
            yield from _restore(waiting, plugins, restore)
            waiting = []
    yield from _restore(waiting, plugins, restore)


def measure(cases: Iterable[Case], task: str, restore: Restore) -> Iterator[Measured]:
    """Restore every case with the plugin of `task` and measure it."""
    for case, output in restored(cases, (task,), restore):
        yield Measured(
            case,
            output,
            quality(task, case.input, case.target),
            quality(task, output, case.target),
            _classical(task, case),
        )


def quality(task: str, image: Image, truth: Image) -> dict[str, float]:
    """Every full-reference metric that applies."""
    values: dict[str, float | None] = {
        "psnr": psnr(image, truth),
        "ssim": ssim(image, truth),
        "ms_ssim": ms_ssim(image, truth),
        "gmsd": gmsd(image, truth),
        "ciede2000": ciede2000(image, truth) if task == COLOUR_TASK else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def mean_classical(measured: list[Measured], metric: str) -> dict[str, float]:
    """Mean of each classical method in `metric`."""
    tables = [m.classical[metric] for m in measured]
    return {name: mean_psnr(table[name] for table in tables) for name in tables[0]}


def deciding_metric(task: str) -> str:
    """What a task is compared with the classical methods in."""
    return "ciede2000" if task == COLOUR_TASK else "psnr"


def best_method(task: str, measured: list[Measured]) -> str:
    """The classical method that is best in the mean."""
    metric = deciding_metric(task)
    means = mean_classical(measured, metric)
    return (max if metric == "psnr" else min)(means, key=lambda name: means[name])


def summarise(task: str, measured: list[Measured]) -> dict[str, object]:
    """Means over the cases, rounded for people to read."""
    summary: dict[str, object] = {"num_photos": len(measured)}
    for metric in measured[0].before:
        before = mean_psnr(m.before[metric] for m in measured)
        after = mean_psnr(m.after[metric] for m in measured)
        summary |= {f"{metric}_in": _rounded(before), f"{metric}_out": _rounded(after)}
        summary[f"{metric}_gain"] = _rounded(after - before)
    best = best_method(task, measured)
    summary["classical_method"] = best
    for metric in measured[0].classical:
        summary[f"classical_{metric}"] = _rounded(mean_classical(measured, metric)[best])
    means = mean_classical(measured, deciding_metric(task))
    summary["classical"] = {name: _rounded(value) for name, value in means.items()}
    outputs, truths = [m.output for m in measured], [m.case.target for m in measured]
    return summary | {name: _rounded(v) for name, v in perceptual(outputs, truths).items()}


def _restore(
    cases: list[Case], plugins: tuple[str, ...], restore: Restore
) -> Iterator[tuple[Case, Image]]:
    if cases:
        outputs = restore([to_pixels(case.input) for case in cases], plugins)
        yield from zip(cases, map(to_image, outputs), strict=True)


def _classical(task: str, case: Case) -> dict[str, dict[str, float]]:
    outputs = {name: run(case.input) for name, run in classical_methods(task).items()}
    values = {"psnr": {name: psnr(image, case.target) for name, image in outputs.items()}}
    if task == COLOUR_TASK:
        values["ciede2000"] = {
            name: ciede2000(image, case.target) for name, image in outputs.items()
        }
    return values


def _rounded(value: float) -> float:
    return round(value, 4)
