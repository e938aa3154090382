"""Whether the queue has a place for one more request, told before its body is read.

It knows the number of waiting jobs from the last submission or look, and counts the requests that
have been let in and have not submitted their job yet. The queue itself has the last word.
"""

import asyncio
import time
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Overloaded, QueueUnavailable
from service.job_queue import JobQueue

FRESH_S = 0.25  # how old the number may be before it is looked up beside the refusals
OLD_S = 1.0  # how old before a request waits for the look
SUBMITTING = ("/v1/edit", "/v1/images/edits")


class Admission:
    """A request is known by its task, from enter() to its submission or leave()."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._entering: set[asyncio.Task[Any] | None] = set()
        self._look: asyncio.Task[None] | None = None

    async def enter(self) -> None:
        """Take a place; Overloaded if there is none."""
        if self._age_s > OLD_S:
            await self._look_up()
        seen = self._queue.seen
        if seen.waiting + len(self._entering) < self._queue.settings.max_depth:
            self._entering.add(asyncio.current_task())
            return
        if self._age_s > FRESH_S and (self._look is None or self._look.done()):
            self._look = asyncio.create_task(self._look_up())
        raise Overloaded(
            f"at most {self._queue.settings.max_depth} jobs may wait; try again later",
            retry_after_s=seen.retry_after_s,
        )

    def leave(self) -> None:
        """The job of this task is submitted, or never will be."""
        self._entering.discard(asyncio.current_task())

    @property
    def _age_s(self) -> float:
        return time.monotonic() - self._queue.seen.at

    async def _look_up(self) -> None:
        try:
            await self._queue.look()
        except QueueUnavailable:
            return  # whoever is let in finds out, and says so


class EarlyDoor:
    """ASGI middleware: a request that has no place is refused before its body is read.

    One with an Idempotency-Key may ask for a job that there is already, so it is let in.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _submits(scope):
            await self._app(scope, receive, send)
            return
        admission: Admission = scope["app"].state.intake.admission
        await admission.enter()
        try:
            await self._app(scope, receive, send)
        finally:
            admission.leave()


def _submits(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in SUBMITTING:
        return False
    return "idempotency-key" not in Headers(scope=scope)
