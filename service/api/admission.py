"""Whether the queue has a place for one more request, told before its body is read.

It knows the number of waiting jobs from the last submission or look, and counts the requests that
have been let in and have not submitted their job yet. The queue itself has the last word.
"""

import asyncio
from contextlib import suppress
from typing import Any

from starlette.types import Message, Receive

from service.errors import Overloaded, QueueUnavailable
from service.job_queue import JobQueue

LOOK_EVERY_S = 0.25
NUM_TURNS = 4  # submissions that are worked on at once; refusals pass between their turns


class Admission:
    """A request is known by its task, from enter() to its submission or leave()."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._entering: dict[asyncio.Task[Any] | None, Turn] = {}
        self._turns = asyncio.Semaphore(NUM_TURNS)

    async def enter(self) -> "Turn":
        """Take a place, and wait for a turn; Overloaded if there is no place."""
        seen = self._queue.seen
        if seen.waiting + len(self._entering) < self._queue.settings.max_depth:
            turn = self._entering[asyncio.current_task()] = Turn(self._turns)
            await turn.take()
            return turn
        raise Overloaded(
            f"at most {self._queue.settings.max_depth} jobs may wait; try again later",
            retry_after_s=seen.retry_after_s,
        )

    def leave(self) -> None:
        """The job of this task is submitted, or never will be."""
        if turn := self._entering.pop(asyncio.current_task(), None):
            turn.give_back()

    async def keep_looking(self) -> None:
        """Follow the number of waiting jobs, which others change too."""
        while True:
            with suppress(QueueUnavailable):  # whoever is let in finds out, and says so
                await self._queue.look()
            await asyncio.sleep(LOOK_EVERY_S)


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
