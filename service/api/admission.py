"""Whether the queue has a place for one more request, told before its body is read.

It knows the number of waiting jobs from the last submission or look, and counts the requests that
have been let in and have not submitted their job yet. The queue itself has the last word.
"""

import asyncio
import time
from typing import Any

from starlette.types import Message, Receive

from service.errors import Overloaded, QueueUnavailable
from service.job_queue import JobQueue

FRESH_S = 0.25  # how old the number may be before it is looked up beside the refusals
OLD_S = 1.0  # how old before a request waits for the look
NUM_TURNS = 4  # submissions that are worked on at once; refusals pass between their turns


class Admission:
    """A request is known by its task, from enter() to its submission or leave()."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._entering: dict[asyncio.Task[Any] | None, Turn] = {}
        self._turns = asyncio.Semaphore(NUM_TURNS)
        self._look: asyncio.Task[None] | None = None

    async def enter(self) -> "Turn":
        """Take a place, and wait for a turn; Overloaded if there is no place."""
        if self._age_s > OLD_S:
            await asyncio.shield(self._looking())
        seen = self._queue.seen
        if seen.waiting + len(self._entering) < self._queue.settings.max_depth:
            turn = self._entering[asyncio.current_task()] = Turn(self._turns)
            await turn.take()
            return turn
        if self._age_s > FRESH_S:
            self._looking()
        raise Overloaded(
            f"at most {self._queue.settings.max_depth} jobs may wait; try again later",
            retry_after_s=seen.retry_after_s,
        )

    def leave(self) -> None:
        """The job of this task is submitted, or never will be."""
        if turn := self._entering.pop(asyncio.current_task(), None):
            turn.give_back()

    @property
    def _age_s(self) -> float:
        return time.monotonic() - self._queue.seen.at

    def _looking(self) -> asyncio.Task[None]:
        """One look for all who need it."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._look_up())
        return self._look

    async def _look_up(self) -> None:
        try:
            await self._queue.look()
        except QueueUnavailable:
            return  # whoever is let in finds out, and says so


class Turn:
    """One of the few submissions that are worked on at once."""

    def __init__(self, turns: asyncio.Semaphore) -> None:
        self._turns, self._is_held = turns, False

    async def take(self) -> None:
        await self._turns.acquire()
        self._is_held = True

    def give_back(self) -> None:
        if self._is_held:
            self._turns.release()
        self._is_held = False

    def outside(self, receive: Receive) -> Receive:
        """`receive` with the turn given back while it waits: an upload may take long."""

        async def receive_outside() -> Message:
            was_held = self._is_held
            self.give_back()
            message = await receive()
            if was_held:
                await self.take()
            return message

        return receive_outside
