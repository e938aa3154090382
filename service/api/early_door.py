"""The first thing a request meets: if the queue has no place for it, it is refused unread.

A refusal costs as little as it can, as there may be hundreds of them in a second: no line in the
log and no span, but the metrics count it.
"""

import time
from collections.abc import Callable

from fastapi import Request, Response
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.admission import Admission
from service.api.middleware import name_request
from service.api.problems import problem_of
from service.errors import Overloaded
from service.metrics import ApiMetrics

SUBMITTING = ("/v1/edit", "/v1/images/edits")
NO_ID = b"<the request's id>"


class EarlyDoor:
    """ASGI middleware around the whole application.

    A request with an Idempotency-Key may ask for a job that there is already, so it is let in.
    """

    def __init__(
        self, app: ASGIApp, metrics: ApiMetrics, admission: Callable[[], Admission]
    ) -> None:
        self._app, self._admission = app, admission
        self._known, self._answer = ("", 0), Response()
        self._observe = {path: metrics.observer(path, 429) for path in SUBMITTING}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _submits(scope):
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        admission = self._admission()
        try:
            turn = await admission.enter()
            await self._app(scope, turn.outside(receive), send)
        except Overloaded as error:  # of the door: those within are answered by the gate
            await self._refuse(error, scope, send)
            self._observe[scope["path"]](time.monotonic() - started)
        finally:
            admission.leave()

    async def _refuse(self, error: Overloaded, scope: Scope, send: Send) -> None:
        known = (scope["path"], error.retry_after_s)
        if known != self._known:
            self._known, self._answer = known, problem_of(error, _unnamed(scope))
        request_id = name_request(scope).encode()
        body = bytes(self._answer.body).replace(NO_ID, request_id)
        headers = [pair for pair in self._answer.raw_headers if pair[0] != b"content-length"]
        headers += [(b"content-length", b"%d" % len(body)), (b"x-request-id", request_id)]
        await send({"type": "http.response.start", "status": 429, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _unnamed(scope: Scope) -> Request:
    """The request with NO_ID in the place of its id: the rest of the answer is made once."""
    return Request({**scope, "state": {"request_id": NO_ID.decode()}})


def _submits(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in SUBMITTING:
        return False
    return "idempotency-key" not in Headers(scope=scope)
