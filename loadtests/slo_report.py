"""The report of a load test: figures, whether its objectives hold, and a picture of its course."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.process_memory import MemoryLog, slope_mb_per_min

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class Answer:
    """`at_s`: when it came; `seconds`: how long it took; `error`: empty if it was a photo."""

    at_s: float
    name: str
    seconds: float
    error: str


@dataclass(frozen=True)
class Objective:
    """What must hold: `value` at most `limit`."""

    name: str
    value: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.value <= self.limit  # not for nan


def latency(answers: Sequence[Answer]) -> dict[str, float]:
    """Number, errors and percentiles in seconds of those that were photos."""
    good = [answer.seconds for answer in answers if not answer.error]
    found: dict[str, float] = {"answers": len(answers), "errors": len(answers) - len(good)}
    for percent in PERCENTILES:
        found[f"p{percent}_s"] = round(float(np.percentile(good, percent)), 4) if good else np.nan
    return found


def by_name(answers: Sequence[Answer]) -> dict[str, dict[str, float]]:
    names = sorted({answer.name for answer in answers})
    return {name: latency([a for a in answers if a.name == name]) for name in names}


def memory_figures(memory: MemoryLog, after_s: float) -> dict[str, dict[str, float]]:
    """MB at the first and last sample of each process, and its slope from `after_s` on."""
    return {
        role: {
            "first_mb": round(samples[0][1], 1),
            "last_mb": round(samples[-1][1], 1),
            "slope_mb_per_min": round(slope_mb_per_min(samples, after_s), 3),
        }
        for role, samples in memory.samples.items()
    }


def report(
    scenario: str,
    seconds: float,
    answers: Sequence[Answer],
    memory: Mapping[str, Mapping[str, float]],
    objectives: Sequence[Objective],
) -> dict[str, Any]:
    errors = sorted({answer.error for answer in answers if answer.error})
    return {
        "scenario": scenario,
        "seconds": seconds,
        "answers_per_s": round(len(answers) / seconds, 2),
        "all": latency(answers),
        "by_name": by_name(answers),
        "errors": errors[:10],
        "memory": memory,
        "objectives": {
            o.name: {"value": round(o.value, 3), "limit": o.limit, "holds": o.holds}
            for o in objectives
        },
    }


def write(path: Path, found: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n")


def draw(path: Path, title: str, answers: Sequence[Answer], memory: MemoryLog) -> None:
    """Latency over time with errors, its distribution by kind of request, memory by process."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (over_time, spread, used) = pyplot.subplots(1, 3, figsize=(15, 4.2), dpi=90)
    figure.suptitle(title)
    names = sorted({answer.name for answer in answers})
    for name in names:
        good = [a for a in answers if a.name == name and not a.error]
        over_time.plot([a.at_s for a in good], [a.seconds for a in good], ".", ms=3, label=name)
        ordered = np.sort([a.seconds for a in good])
        spread.plot(
            ordered, 100 * np.arange(1, len(ordered) + 1) / max(1, len(ordered)), label=name
        )
    bad = [a for a in answers if a.error]
    over_time.plot(
        [a.at_s for a in bad], [a.seconds for a in bad], "rx", label=f"errors: {len(bad)}"
    )
    over_time.set(xlabel="seconds", ylabel="latency in s", ylim=(0, None))
    over_time.legend(fontsize=7)
    spread.set(xlabel="latency in s", ylabel="percent of answers within", xlim=(0, None))
    spread.axhline(95, color="grey", lw=0.7)
    spread.legend(fontsize=7)
    for role, samples in memory.samples.items():
        used.plot(*zip(*samples, strict=True), label=role)
    used.set(xlabel="seconds", ylabel="resident memory in MB", ylim=(0, None))
    used.legend(fontsize=7)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)
