"""How much may wait, and what a refusal says: by number, by bytes and by predicted work."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from service.errors import Overloaded
from service.queue_records import QueueSettings

UNIT = 1000  # pixel steps; Redis counts work in whole units
MAX_PAUSE_S = 600


@dataclass(frozen=True)
class Demand:
    """What a job takes: pixels times steps, over all its tasks; `rate` is what the fleet does of
    that in a second, None if no worker has measured it yet.
    """

    pixel_steps: int = 0
    rate: float | None = None

    @property
    def work(self) -> int:
        return math.ceil(self.pixel_steps / UNIT)

    def max_work(self, max_wait_s: float) -> int:
        """Work that the fleet does in that time; 0: not known."""
        return 0 if self.rate is None else max(1, int(self.rate * max_wait_s / UNIT))


@dataclass(frozen=True)
class Seen:
    """The number of waiting jobs by the last look, and when one that is refused may come back."""

    waiting: int = 0
    retry_after_s: int = 5


@dataclass(frozen=True)
class Refusal:
    """Which limit a job met, and how full the queue is."""

    limit: Literal["count", "bytes", "work"]
    waiting: int
    num_bytes: int
    work: int
    retry_after_s: int  # by the rate of the last finishes

    @classmethod
    def of(cls, reply: Sequence[Any]) -> Self:
        """What the script SUBMIT returned."""
        limit, waiting, num_bytes, work, *times = reply
        return cls(limit.decode(), waiting, num_bytes, work, retry_after_s(waiting, *times))

    def error(self, settings: QueueSettings, demand: Demand) -> Overloaded:
        if self.limit == "count":
            detail = f"{self.waiting} jobs are waiting and at most {settings.max_depth} may"
        elif self.limit == "bytes":
            detail = (
                f"the pictures of open jobs have {self.num_bytes} bytes and at most "
                f"{settings.max_bytes} may be kept"
            )
        else:
            wait_s = self.work * UNIT / (demand.rate or math.inf)
            detail = (
                f"the open jobs take about {wait_s:.0f} s and at most "
                f"{settings.max_wait_s:g} s may be queued"
            )
            pause_s = min(MAX_PAUSE_S, max(1, math.ceil(wait_s - settings.max_wait_s)))
            return Overloaded(f"{detail}; try again later", retry_after_s=pause_s)
        return Overloaded(f"{detail}; try again later", retry_after_s=self.retry_after_s)


def retry_after_s(waiting: int, now: int, newest: int, oldest: int, num: int) -> int:
    """When a tenth of the queue will have drained, at the rate of the last finishes (ms)."""
    if num < 2:
        return 5
    # A stall shows as time since the newest finish.
    interval_s = max((newest - oldest) / (num - 1), now - newest) / 1000
    return min(60, max(1, math.ceil(interval_s * waiting / 10)))
