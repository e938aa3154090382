"""What happens to every request: an id, a size limit, metrics, a log line; no exception escapes."""

import logging
import re
import secrets
import time

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import problem_of
from service.errors import DiffPluginError, ImageTooLarge
from service.metrics import ApiMetrics
from service.trace_context import CURRENT, TraceContext
from service.tracing import Span, Tracer

log = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# Probes and scrapes come every few seconds; their lines would bury the others.
QUIET_ROUTES = ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/metrics")


class Gate:
    """ASGI middleware; `max_body_bytes` bounds a request before it is read into memory."""

    def __init__(
        self, app: ASGIApp, metrics: ApiMetrics, tracer: Tracer, max_body_bytes: int
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._tracer = tracer
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, self._max_body_bytes)
        trace = CURRENT.set(exchange.trace.traceparent)
        with self._metrics.in_flight.track_inprogress():
            try:
                exchange.refuse_declared_body()
                await self._app(scope, exchange.receive, exchange.send)
            except Exception as error:
                await exchange.answer_error(error)
            finally:
                CURRENT.reset(trace)
        self._record(exchange)

    def _record(self, exchange: "Exchange") -> None:
        route = exchange.route
        seconds = time.monotonic() - exchange.started
        self._metrics.observe_request(route, exchange.status, seconds)
        level = logging.DEBUG if route in QUIET_ROUTES else logging.INFO
        context = {
            "request_id": exchange.request_id,
            "trace_id": exchange.trace.trace_id,
            "route": route,
            "status": exchange.status,
            "duration_ms": round(1000 * seconds, 1),
        }
        if exchange.job_id:
            context["job_id"] = exchange.job_id
        log.log(level, "%s %s", exchange.scope["method"], exchange.scope["path"], extra=context)
        if route not in QUIET_ROUTES:
            self._tracer.add(exchange.span())


def name_request(scope: Scope) -> str:
    """The id that was sent or a new one, which the request carries from here on."""
    sent_id = Headers(scope=scope).get("x-request-id", "")
    request_id = sent_id if REQUEST_ID.fullmatch(sent_id) else secrets.token_hex(16)
    scope.setdefault("state", {})["request_id"] = request_id
    return request_id


class Exchange:
    """One request and its answer as they pass the gate."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_body_bytes: int) -> None:
        self.scope = scope
        self.started = time.monotonic()
        self.started_at = time.time()
        self.status = 499  # until an answer starts: nobody was there to get one
        self.job_id = ""
        self._receive, self._send = receive, send
        self._headers = Headers(scope=scope)
        self.trace = TraceContext.within(self._headers.get("traceparent", ""))
        self._max_body_bytes = max_body_bytes
        self._num_body_bytes = 0
        self._has_started = False
        self.request_id = name_request(scope)

    def span(self) -> Span:
        """Of the whole exchange, that ends now."""
        seconds = time.monotonic() - self.started
        attributes: dict[str, str | int] = {
            "http.request.method": self.scope["method"],
            "http.route": self.route,
            "http.response.status_code": self.status,
            "diffplugin.request_id": self.request_id,
            **({"diffplugin.job_id": self.job_id} if self.job_id else {}),
        }
        fault = f"status {self.status}" if self.status >= 500 else ""
        name = f"{self.scope['method']} {self.route}"
        ended_at = self.started_at + seconds
        return Span(name, self.trace, self.started_at, ended_at, "server", attributes, fault)

    @property
    def route(self) -> str:
        """The route's template: bounded in number, unlike paths."""
        return getattr(self.scope.get("route"), "path", "none")

    def refuse_declared_body(self) -> None:
        declared = self._headers.get("content-length", "")
        if declared.isdigit():
            self._check_body(int(declared))

    async def receive(self) -> Message:
        message = await self._receive()
        # A chunked body declares no length, so it is counted as it comes.
        self._num_body_bytes += len(message.get("body", b""))
        self._check_body(self._num_body_bytes)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.request_id
            self.status = message["status"]
            self.job_id = headers.get("x-job-id", "")
            self._has_started = True
        await self._send(message)

    async def answer_error(self, error: Exception) -> None:
        """The process edge: a bug becomes a problem, and a traceback in the log."""
        if not isinstance(error, DiffPluginError):
            log.error("unexpected error", exc_info=error, extra={"request_id": self.request_id})
            error = DiffPluginError(
                f"unexpected error; the log has it as request {self.request_id}"
            )
        if not self._has_started:
            request = Request(self.scope, self.receive)
            await problem_of(error, request)(self.scope, self.receive, self.send)

    def _check_body(self, num_bytes: int) -> None:
        if num_bytes > self._max_body_bytes:
            raise ImageTooLarge(f"the request has more than {self._max_body_bytes} bytes")
