"""Resident memory of the service's processes while a load test runs, and whether it grows."""

import time
from dataclasses import dataclass, field

import numpy as np
import psutil

MB = 2**20


@dataclass
class MemoryLog:
    """(seconds, MB) of each process by its role, for the process `pid` and all below it."""

    pid: int
    began: float
    samples: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def take(self) -> None:
        parent = psutil.Process(self.pid)
        now = time.monotonic() - self.began
        for process in (parent, *parent.children(recursive=True)):
            used = process.memory_info().rss / MB
            self.samples.setdefault(role_of(process.cmdline()), []).append((now, used))


def role_of(command: list[str]) -> str:
    """`api` of `python -m service.cli api`; `redis` of a redis-server."""
    if any("redis-server" in part for part in command[:1]):
        return "redis"
    return command[-1] if "service.cli" in command else "other"


def slope_mb_per_min(samples: list[tuple[float, float]], after_s: float) -> float:
    """Least squares over the samples from `after_s` on: before, caches and pools still fill."""
    late = np.array([sample for sample in samples if sample[0] >= after_s])
    if len(late) < 3:
        return float("nan")
    return 60 * float(np.polyfit(late[:, 0], late[:, 1], 1)[0])
