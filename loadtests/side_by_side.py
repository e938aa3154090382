"""Measure variants of one job in turns, A B A B ..., so that whatever the machine does hits all."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

ROUNDS = 5


@dataclass(frozen=True)
class Clock:
    """Seconds of this process on its CPU, which the machine's load does not count in; or wall."""

    is_cpu: bool

    def __call__(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.process_time() if self.is_cpu else time.perf_counter()


def side_by_side(
    clock: Clock, variants: dict[str, Callable[[], Any]], rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Seconds of every variant in each round, after one that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, run in variants.items():
            gc.collect()
            began = clock()
            run()
            if number:
                seconds[name].append(clock() - began)
    return seconds


def ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> float:
    """How many times faster: the ratio of medians."""
    return statistics.median(seconds[slow]) / statistics.median(seconds[fast])


def quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]
