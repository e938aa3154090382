"""Errors as gRPC answers: a status of api.catalogue with google.rpc details."""

import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Protocol, TypeVar

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from grpc.aio import ServicerContext
from grpc_status import rpc_status

from service import errors
from service.api.catalogue import CATALOGUE, violations_of
from service.api.guard import Guard, bearer
from service.metrics import ApiMetrics
from service.trace_context import CURRENT, TraceContext
from service.tracing import Span, Tracer

log = logging.getLogger(__name__)

DOMAIN = "diffplugin"
# The calls that count towards a key's rate.
WORK = ("Edit", "EditStream", "SubmitEdit", "UploadEdit", "Plan")
# What a load balancer asks; it has no key.
OPEN = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata")
FAULTS = (StatusCode.INTERNAL, StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)


@dataclass(frozen=True)
class Edge:
    """What every call passes on its way in and out."""

    metrics: ApiMetrics
    guard: Guard
    tracer: Tracer = field(default_factory=Tracer)


class Guarded(Protocol):
    edge: Edge


ServiceT = TypeVar("ServiceT", bound=Guarded)
RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")
Call = Callable[[ServiceT, RequestT, ServicerContext], Coroutine[Any, Any, AnswerT]]


def answers_errors(
    call: Call[ServiceT, RequestT, AnswerT],
) -> Call[ServiceT, RequestT, AnswerT]:
    """The edge of a call: key, errors, counts and span. What it raises becomes its status."""

    @wraps(call)
    async def answered(service: ServiceT, request: RequestT, context: ServicerContext) -> AnswerT:
        code = StatusCode.CANCELLED  # unless it comes to an end
        started_at, trace = time.time(), _trace_of(context)
        CURRENT.set(trace.traceparent)  # for this call: each has a task of its own
        try:
            if call.__name__ not in OPEN:
                key = _key_of(context)
                await service.edge.guard.check(key, "edit", is_work=call.__name__ in WORK)
            answer = await call(service, request, context)
            code = StatusCode.OK
            return answer
        except Exception as error:
            named = error if isinstance(error, errors.DiffPluginError) else _unexpected(error, call)
            code = CATALOGUE[type(named)].grpc
            status = rpc_status.to_status(status_of(named))
            await context.abort(status.code, status.details, status.trailing_metadata)
            raise AssertionError("abort() raises. This is a bug.") from error
        finally:
            service.edge.metrics.grpc_calls.labels(call.__name__, code.name).inc()
            attributes = {"rpc.method": call.__name__, "rpc.grpc.status_code": code.value[0]}
            fault = code.name if code in FAULTS else ""
            service.edge.tracer.add(
                Span(call.__name__, trace, started_at, time.time(), "server", attributes, fault)
            )

    return answered


def _trace_of(context: ServicerContext) -> TraceContext:
    sent = {key: value for key, value in context.invocation_metadata() or ()}
    return TraceContext.within(str(sent.get("traceparent", "")))


def status_of(error: errors.DiffPluginError) -> status_pb2.Status:
    """google.rpc.Status with ErrorInfo, BadRequest if fields are wrong, RetryInfo if it helps."""
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.code.upper(), domain=DOMAIN)]
    if violations := violations_of(error):
        of_field = error_details_pb2.BadRequest.FieldViolation
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    of_field(field=field, description=text) for field, text in violations.items()
                ]
            )
        )
    if isinstance(error, errors.Unavailable):
        delay = duration_pb2.Duration(seconds=error.retry_after_s)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=CATALOGUE[type(error)].grpc.value[0], message=str(error))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _key_of(context: ServicerContext) -> str:
    sent = {name: value for name, value in context.invocation_metadata() if isinstance(value, str)}
    return bearer(sent.get("authorization", ""), sent.get("x-api-key", ""))


def _unexpected(error: Exception, call: Callable[..., object]) -> errors.DiffPluginError:
    """A bug: its traceback goes to the log, and nothing of it to the caller."""
    log.error("unexpected error", exc_info=error, extra={"route": call.__name__})
    return errors.DiffPluginError("unexpected error; the log of the service has it")
