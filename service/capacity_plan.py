"""How many workers does some traffic need, so that a share of its edits ends in time?"""

import math
from dataclasses import dataclass

import numpy as np

from service.capacity_simulation import Simulated, StepTimes, simulate

MIN_JOBS, MAX_JOBS = 4_000, 400_000
LATENCIES_SIMULATED = 20  # how many edits' times the simulated traffic goes on for, at least
MAX_LOAD = 0.95  # above it, queues grow for longer than the simulated time
EXACT = 200  # the plan may be this part of itself above the least number
WARM_UP = 1 / 3  # of the jobs, which meet an empty fleet, are not counted
PERCENTS = (50, 95, 99)


class TargetOutOfReach(ValueError):
    """No number of workers brings p95 below its target."""


@dataclass(frozen=True)
class Traffic:
    """Poisson arrivals; `mean_tasks`: plugins of an edit, one or more (geometric above one)."""

    edits_per_s: float
    mean_tasks: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.edits_per_s > 0 or not math.isfinite(self.edits_per_s):
            raise ValueError("the traffic must be more than 0 edits per second")
        if self.mean_tasks < 1:
            raise ValueError("an edit has at least one task")


@dataclass(frozen=True)
class Forecast:
    """Of a number of workers: percentiles of the time of an edit, and how busy they are."""

    num_workers: int
    p50_s: float
    p95_s: float
    p99_s: float
    utilisation: float
    mean_rows: float


def forecast(traffic: Traffic, times: StepTimes, num_workers: int, max_rows: int = 8) -> Forecast:
    """Simulate the traffic on that many workers."""
    wanted = traffic.edits_per_s * LATENCIES_SIMULATED * times.alone_s * traffic.mean_tasks
    num_jobs = int(min(max(MIN_JOBS, wanted), MAX_JOBS))
    random = np.random.default_rng(traffic.seed)
    arrivals = np.cumsum(random.exponential(1 / traffic.edits_per_s, num_jobs))
    tasks = random.geometric(1 / traffic.mean_tasks, num_jobs)
    found = simulate(arrivals, times, num_workers, max_rows, tasks)
    return summary(found, num_workers, int(WARM_UP * num_jobs))


def summary(found: Simulated, num_workers: int, num_left_out: int = 0) -> Forecast:
    percentiles = np.percentile(found.latencies_s[num_left_out:], PERCENTS)
    p50_s, p95_s, p99_s = (round(float(value), 4) for value in percentiles)
    busy, rows = round(found.utilisation, 3), round(found.mean_rows, 2)
    return Forecast(num_workers, p50_s, p95_s, p99_s, busy, rows)


def plan_workers(
    traffic: Traffic, times: StepTimes, p95_s: float, max_rows: int = 8
) -> list[Forecast]:
    """Forecasts that were tried, by number of workers; the first with its p95 in time is the plan.

    TargetOutOfReach if edits in an idle fleet take longer.
    """
    alone_s = _alone_p95_s(traffic, times)
    if p95_s < alone_s:
        raise TargetOutOfReach(
            f"95 % of these edits take up to {alone_s:.3g} s in an idle fleet: no number of GPUs "
            f"brings p95 below {p95_s:g} s; give a longer --p95-s, or fewer steps"
        )
    most_per_s = MAX_LOAD * times.edits_per_s(max_rows, traffic.mean_tasks)
    least = traffic.edits_per_s / most_per_s
    too_few, enough = math.ceil(least) - 1, max(1, math.ceil(least))
    tried: dict[int, Forecast] = {}

    def is_enough(num: int) -> bool:
        tried[num] = forecast(traffic, times, num, max_rows)
        return tried[num].p95_s <= p95_s

    while not is_enough(enough):
        too_few, enough = enough, enough + max(1, enough // 8)
    while enough - too_few > max(1, enough // EXACT):
        middle = (too_few + enough) // 2
        if is_enough(middle):
            enough = middle
        else:
            too_few = middle
    return [tried[num] for num in sorted(tried)]


def _alone_p95_s(traffic: Traffic, times: StepTimes) -> float:
    """Of edits that meet an idle fleet, from the quantile of their number of tasks."""
    more = 1 - 1 / traffic.mean_tasks
    num_tasks = max(1, math.ceil(math.log(0.05) / math.log(more))) if more else 1
    return times.outside_s + num_tasks * (times.alone_s - times.outside_s)
