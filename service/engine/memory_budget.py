"""Admission by memory: what an edit asks for, and which edits fit a budget together.

No two edits are prepared at once, and every call's memory grows at most as its rows do. So edits
need together, at most, the sum of what each holds and works with, and once what preparing takes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class RowCost:
    """Measured on one row of `pixels`; a row of fewer pixels is taken to cost as much."""

    pixels: int
    row_bytes: int  # of all that it holds and works with, in its most expensive call
    ahead_bytes: int  # more, for each further step that the SCB computes ahead in the same call

    def at(self, pixels: int) -> "RowCost":
        """Of a row that is larger than any measured one: networks grow with the pixels."""
        factor = max(1.0, pixels / self.pixels)
        return RowCost(pixels, round(factor * self.row_bytes), round(factor * self.ahead_bytes))


@dataclass(frozen=True)
class Demand:
    """What an edit asks for, at most, until it ends, in bytes."""

    held: int = 0  # as long as it runs
    once: int = 0  # more, while it is prepared


class MemoryBudget:
    """`max_bytes` for all running edits together; `costs` ascend in pixels."""

    def __init__(self, max_bytes: int, costs: Sequence[RowCost], padding: float = 1.0) -> None:
        """`padding`: how many rows may be computed for one that is somebody's."""
        self.max_bytes, self._costs, self._padding = max_bytes, tuple(costs), padding

    def demand(self, pixels: int, num_rows: int, steps_ahead: int, window_bytes: int) -> Demand:
        """Of rows of `pixels` whose SCB computes that many steps in one call and keeps them."""
        bucket = next((c for c in self._costs if c.pixels >= pixels), self._costs[-1])
        cost = bucket.at(pixels)
        held = round(self._padding * num_rows * cost.row_bytes) + window_bytes
        return Demand(held, num_rows * (steps_ahead - 1) * cost.ahead_bytes)

    def fits(self, demands: Iterable[Demand]) -> bool:
        return needed_bytes(demands) <= self.max_bytes


def needed_bytes(demands: Iterable[Demand]) -> int:
    """Of edits that run together."""
    known = list(demands)
    return sum(d.held for d in known) + max((d.once for d in known), default=0)
