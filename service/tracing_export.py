"""Spans sent by OpenTelemetry over OTLP/HTTP, in batches, on a thread of their own."""

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from service import __version__
from service.tracing import Span

KINDS = {"server": SpanKind.SERVER, "consumer": SpanKind.CONSUMER, "internal": SpanKind.INTERNAL}
SCOPE = InstrumentationScope("diffplugin", __version__)


class OtlpExport:
    """`url` is the whole address, as http://collector:4318/v1/traces."""

    def __init__(self, url: str, role: str) -> None:
        self._resource = Resource.create(
            {
                "service.name": f"diffplugin-{role}",
                "service.namespace": "diffplugin",
                "service.version": __version__,
            }
        )
        self._processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=url))

    def add(self, span: Span) -> None:
        context = span.context
        parent = _context(context.trace_id, context.parent_id) if context.parent_id else None
        self._processor.on_end(
            ReadableSpan(
                span.name,
                _context(context.trace_id, context.span_id),
                parent,
                self._resource,
                dict(span.attributes),
                kind=KINDS[span.kind],
                status=Status(StatusCode.ERROR, span.fault) if span.fault else Status(),
                start_time=int(1e9 * span.start_s),
                end_time=int(1e9 * span.end_s),
                instrumentation_scope=SCOPE,
            )
        )

    def close(self) -> None:
        self._processor.shutdown()  # type: ignore[no-untyped-call]  # its types are partial


def _context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(1)
    )
