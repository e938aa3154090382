"""Draws docs/images/capacity.png: GPUs by traffic up to 10,000 edits per second, and p95 by GPUs.

python -m loadtests.capacity_plot [FILE]

The step times are an example, those of docs/operations.md; they were not measured on a GPU.
"""

import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot

from service.capacity_plan import Traffic, forecast, plan_workers
from service.capacity_simulation import StepTimes

EXAMPLE = StepTimes({1: 0.021, 8: 0.060}, 20, 0.012, 0.008, 0.05)
RATES = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)
TARGETS_S = (1.2, 2.0)
ONE_RATE = 100.0


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images/capacity.png")
    figure, (needed, waits) = pyplot.subplots(1, 2, figsize=(9, 3.6), dpi=90)
    for target_s in TARGETS_S:
        numbers = []
        for rate in RATES:
            began = time.perf_counter()
            plan = plan_workers(Traffic(rate), EXAMPLE, target_s)
            numbers.append(next(one for one in plan if one.p95_s <= target_s).num_workers)
            seconds = time.perf_counter() - began
            print(f"{rate:>6} edits/s, p95 {target_s} s: {numbers[-1]:>5} GPUs ({seconds:.1f} s)")
        needed.plot(RATES, numbers, "o-", ms=4, label=f"p95 within {target_s:g} s")
    needed.set(xscale="log", yscale="log", xlabel="edits per second", ylabel="GPUs needed")
    least = ONE_RATE / EXAMPLE.edits_per_s(8)
    numbers = sorted({max(1, round(least * more)) for more in (1, 1.05, 1.1, 1.2, 1.5, 2, 3, 4, 6)})
    found = [forecast(Traffic(ONE_RATE), EXAMPLE, number) for number in numbers]
    waits.plot(numbers, [one.p95_s for one in found], "o-", ms=4, label="p95")
    waits.plot(numbers, [one.p50_s for one in found], "o-", ms=4, label="p50")
    waits.set(
        xlabel=f"GPUs for {ONE_RATE:g} edits/s", ylabel="time of an edit in s", ylim=(0, None)
    )
    for axes in (needed, waits):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
