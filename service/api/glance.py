"""A value that many requests ask for: kept for a moment, and asked for once by all who need it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Glance(Generic[T]):
    """`ask` is awaited when the last answer is older than `max_age_s`."""

    def __init__(self, ask: Callable[[], Awaitable[T]], max_age_s: float) -> None:
        self._ask, self._max_age_s = ask, max_age_s
        self._asking: asyncio.Task[T] | None = None
        self._asked_at = -float("inf")

    async def get(self) -> T:
        """The last answer, or a new one; its error, if asking failed, is kept for nobody else."""
        is_old = time.monotonic() - self._asked_at > self._max_age_s
        if self._asking is None or is_old or _has_failed(self._asking):
            return await self.ask()
        return await asyncio.shield(self._asking)

    async def ask(self) -> T:
        """A new answer, whatever is known."""
        self._asked_at = time.monotonic()
        self._asking = asyncio.ensure_future(self._ask())
        return await asyncio.shield(self._asking)


def _has_failed(task: "asyncio.Task[T]") -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
