"""Spans of requests and jobs, if a collector is set. What sends them: service.tracing_export.

Spans are made when they are over, from the clock that metrics, logs and headers read too: a job's
stages are laid end to end from its claim on, each as long as its timing says.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from service.errors import InvalidRequest
from service.jobs import Job, Timings
from service.trace_context import TraceContext

# Of a worker, in the order in which a job passes them once it is claimed.
WORKER_STAGES = ("decode", "prepare", "denoise", "finish", "encode")

Attributes = Mapping[str, str | int | float | bool]


@dataclass(frozen=True)
class Span:
    """Something that took its time. Times are Unix seconds; `fault` says what went wrong in it."""

    name: str
    context: TraceContext
    start_s: float
    end_s: float
    kind: Literal["server", "consumer", "internal"] = "internal"
    attributes: Attributes = field(default_factory=dict)
    fault: str = ""


class Export(Protocol):
    def add(self, span: Span) -> None: ...
    def close(self) -> None: ...


class Tracer:
    """What a role tells of its spans; without an export it is silent."""

    def __init__(self, export: Export | None = None) -> None:
        self._export = export

    @classmethod
    def connect(cls, url: str, role: str) -> "Tracer":
        """Sends to `url`, an OTLP endpoint over HTTP; "" for nowhere."""
        if not url:
            return cls()
        try:
            # Optional: the extra `otel`.
            from service.tracing_export import OtlpExport
        except ImportError as error:
            raise InvalidRequest(
                "DIFFPLUGIN_TRACES_URL is set and OpenTelemetry is not installed; "
                "install the extra otel: pip install 'diffplugin-serve[otel]'"
            ) from error
        return cls(OtlpExport(url, role))

    def add(self, *spans: Span) -> None:
        if self._export is not None:
            for span in spans:
                self._export.add(span)

    def close(self) -> None:
        """Send what was not sent yet."""
        if self._export is not None:
            self._export.close()


def span_of_plan(job: Job, plan_s: float) -> Span:
    """What a selector did for a job, just now."""
    now = time.time()
    context = TraceContext.within(job.traceparent)
    attributes: Attributes = {"diffplugin.job_id": job.id, "diffplugin.attempt": job.attempt}
    return Span("plan", context, now - plan_s, now, "consumer", attributes)


def spans_of_edit(job: Job, timings: Timings, fault: str = "") -> tuple[Span, ...]:
    """What a worker did for a job that ends now: the wait, the whole, and its stages within."""
    now = time.time()
    claimed_at = min(now, job.created_at + timings.queue_s + timings.plan_s)
    whole = TraceContext.within(job.traceparent)
    attributes: Attributes = {
        "diffplugin.job_id": job.id,
        "diffplugin.attempt": job.attempt,
        "diffplugin.plugins": ",".join(job.plan.runnable if job.plan else ()),
    }
    # Both waits are one timing; the plan between them is the selector's span.
    waiting = TraceContext.within(job.traceparent)
    spans = [
        Span("queue", waiting, claimed_at - timings.queue_s, claimed_at),
        Span("edit", whole, claimed_at, now, "consumer", attributes, fault),
    ]
    start_s = claimed_at
    for stage in WORKER_STAGES:
        seconds: float = getattr(timings, f"{stage}_s")
        if seconds > 0:
            context = TraceContext.within(whole.traceparent)
            spans.append(Span(stage, context, start_s, start_s + seconds))
            start_s += seconds
    return tuple(spans)
