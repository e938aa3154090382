"""The goals, their limits, and how a run's figures are shown and written."""

import json
import platform
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from service import __version__

AT_LEAST, AT_MOST = ">=", "<="


@dataclass(frozen=True)
class Goal:
    """`targets` by regime: tiny on a CPU, gpu, and any other base on a CPU; none: only reported."""

    title: str
    sense: str
    targets: dict[str, float]


GOALS = {
    "G1": Goal("8 in flight over 8 plugins / our engine at max_batch=1, edits/s", AT_LEAST,
               {"tiny": 2.5, "gpu": 1.5, "cpu": 1.0}),
    "G2": Goal("8 in flight over 8 plugins / reference-style loop, edits/s", AT_LEAST,
               {"tiny": 2.5, "gpu": 4.0}),
    "G3": Goal("8 plugins / one plugin, edits/s", AT_LEAST,
               {"tiny": 0.95, "gpu": 0.97, "cpu": 0.95}),
    "G4": Goal("SCB of all timesteps: one call / one call per step, speed", AT_LEAST,
               {"tiny": 3.0, "gpu": 1.3, "cpu": 0.95}),
    "G5": Goal("through HTTP, queue and codecs / bare engine, edits/s", AT_LEAST,
               {"tiny": 0.90, "gpu": 0.97, "cpu": 0.90}),
    "G7": Goal("plugins swapped every 0.5 s: longest step gap / its limit", AT_MOST,
               {"tiny": 1.0, "gpu": 1.0, "cpu": 1.0}),
    "G8": Goal("mean wait from arrival to first step at half load, steps", AT_MOST,
               {"tiny": 1.0, "gpu": 1.0, "cpu": 1.0}),
    "G8b": Goal("the same wait with request-level batches / ours", AT_LEAST,
                {"tiny": 6.0, "gpu": 6.0, "cpu": 6.0}),
    "G9": Goal("8 schedulers of diffusers / our whole host work of a step of 8 rows, CPU", AT_LEAST,
               {"tiny": 4.0, "gpu": 4.0, "cpu": 4.0}),
    "G10": Goal("slots used / computed at 70 % Poisson load, padded to buckets", AT_LEAST,
                {"tiny": 0.85, "gpu": 0.85, "cpu": 0.85}),
    "D1": Goal("8 plugins / diffusers' classes batched per plugin, edits/s", AT_LEAST, {}),
    "D2": Goal("one plugin / diffusers' classes batched by 8, edits/s", AT_LEAST, {}),
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """One measured goal; `detail` is what it was computed from."""

    goal: str
    value: float
    detail: dict[str, Any] = field(default_factory=dict)

    def verdict(self, regime: str) -> str:
        goal = GOALS[self.goal]
        target = goal.targets.get(regime)
        if target is None:
            return ""
        holds = self.value >= target if goal.sense == AT_LEAST else self.value <= target
        return f"{goal.sense} {target:g} {'holds' if holds else 'MISSED'}"


def print_table(results: list[Result], regime: str) -> None:
    print(f"{'goal':<4} {'value':>7}  {'limit':<14}  what")
    for result in results:
        title = GOALS[result.goal].title
        print(f"{result.goal:<4} {result.value:>7.3f}  {result.verdict(regime):<14}  {title}")


def environment(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "device": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "version": __version__,
    }


def write_json(path: Path, head: dict[str, Any], results: list[Result], regime: str) -> None:
    rows = [asdict(r) | {"verdict": r.verdict(regime)} for r in results]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(head | {"results": rows}, indent=2) + "\n")


def write_table(path: Path, marker: str, header: list[str], rows: list[list[str]]) -> None:
    """Replace what stands between <!-- marker --> and <!-- /marker --> in a page by a table."""
    lines = [header, ["---"] * len(header), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    before, rest = path.read_text().split(f"<!-- {marker} -->\n", 1)
    after = rest.split(f"<!-- /{marker} -->", 1)[1]
    path.write_text(f"{before}<!-- {marker} -->\n{table}\n<!-- /{marker} -->{after}")


def figures(results: list[Result], regime: str) -> list[list[str]]:
    """A row for each result: goal, value, verdict."""
    return [[r.goal, f"{r.value:.3g}", r.verdict(regime) or "reported"] for r in results]


def summary(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Median, least and most seconds of every variant."""
    return {
        name: {
            "median_s": round(statistics.median(values), 5),
            "min_s": round(min(values), 5),
            "max_s": round(max(values), 5),
            "rounds": len(values),
        }
        for name, values in seconds.items()
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
