"""The first thing a request meets: if the queue has no place for it, it is refused unread.

A refusal costs as little as it can, as there may be hundreds of them in a second: no line in the
log and no span, but the metrics count it.
"""

import time

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.admission import Admission
from service.api.middleware import name_request
from service.api.problems import problem_of
from service.errors import Overloaded
from service.metrics import ApiMetrics

SUBMITTING = ("/v1/edit", "/v1/images/edits")


class EarlyDoor:
    """ASGI middleware around all the others.

    A request with an Idempotency-Key may ask for a job that there is already, so it is let in.
    """

    def __init__(self, app: ASGIApp, metrics: ApiMetrics) -> None:
        self._app = app
        self._observe = {path: metrics.observer(path, 429) for path in SUBMITTING}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _submits(scope):
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        admission: Admission = scope["app"].state.intake.admission
        try:
            turn = await admission.enter()
            await self._app(scope, turn.outside(receive), send)
        except Overloaded as error:  # of the door: those within are answered by the gate
            await self._refuse(error, scope, receive, send)
            self._observe[scope["path"]](time.monotonic() - started)
        finally:
            admission.leave()

    async def _refuse(self, error: Overloaded, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = name_request(scope)
        answer = problem_of(error, Request(scope))
        answer.headers["X-Request-Id"] = request_id
        await answer(scope, receive, send)


def _submits(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in SUBMITTING:
        return False
    return "idempotency-key" not in Headers(scope=scope)
