"""API keys over HTTP: each request is checked before its body is read."""

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.guard import Guard, bearer
from service.api_keys import Scope as KeyScope

# What the keys guard; probes, metrics, the page and the documents are for everybody.
GUARDED: tuple[tuple[str, KeyScope], ...] = (("/v1/", "edit"), ("/v2/repository/", "admin"))


class KeyCheck:
    """ASGI middleware inside the gate, which answers what it raises."""

    def __init__(self, app: ASGIApp, guard: Callable[[], Guard]) -> None:
        self._app, self._guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._check(scope)
        await self._app(scope, receive, send)

    async def _check(self, scope: Scope) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        key = bearer(headers.get("authorization", ""), headers.get("x-api-key", ""))
        is_work = scope["method"] in ("POST", "PUT") and not path.endswith("/cancel")
        for prefix, needed in GUARDED:
            if path.startswith(prefix):
                await self._guard().check(key, needed, is_work)
