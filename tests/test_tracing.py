"""One trace from the wire through Redis to the worker's stages, as a collector receives it."""

import asyncio
import json
import logging
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from service.errors import InvalidRequest
from service.images import ImageLimits
from service.logs import JsonFormatter
from service.pb.diffplugin.v1 import edit_pb2
from service.selector.process import SelectorProcess
from service.trace_context import TraceContext, trace_id_of
from service.tracing import Tracer
from service.worker import Worker, WorkerSettings
from tests.api_stack import Stack, photo
from tests.grpc_stack import serving_both, stub_of
from tests.scripted_worker import ScriptedEngine
from tests.test_selector_process import WordPlanner

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENT = f"00-{TRACE}-{CALLER}-01"


class Collector:
    """Keeps every span that is posted to it."""

    def __init__(self) -> None:
        self.spans: dict[str, Span] = {}  # by role and name
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            values = {a.key: a.value.string_value for a in resource.resource.attributes}
            role = values["service.name"].removeprefix("diffplugin-")
            for scope in resource.scope_spans:
                self.spans |= {f"{role}: {span.name}": span for span in scope.spans}


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever, daemon=True)
    thread.start()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()


@asynccontextmanager
async def working(stack: Stack, url: str) -> AsyncIterator[None]:
    """The real selector and worker processes' loops, around a planner and an engine of words."""
    limits = ImageLimits(max_bytes=10**6, max_pixels=10**6, min_side=8)
    tracers = [Tracer.connect(url, role) for role in ("selector", "worker")]
    settings = WorkerSettings("worker", "scripted", "cpu", limits)
    worker = Worker(stack.queue, ScriptedEngine(2), settings, tracers[1])
    selector = SelectorProcess(stack.queue, WordPlanner(), stack.settings, tracers[0])  # type: ignore[arg-type]
    stop = asyncio.Event()
    tasks = [asyncio.create_task(worker.run()), asyncio.create_task(selector.run(stop))]
    async with asyncio.timeout(10):
        while len(await stack.queue.workers()) < len(tasks):
            await asyncio.sleep(0.01)
    yield
    stop.set()
    worker.stop()
    await asyncio.gather(*tasks)
    for tracer in tracers:
        tracer.close()


async def test_one_trace_from_http_and_grpc_to_the_stages(
    redis_url: str, tmp_path: Path, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="service")
    async with serving_both(redis_url, tmp_path, roles=(), traces_url=collector.url) as both:
        stack, channel = both
        async with working(stack, collector.url):
            headers = {"traceparent": SENT}
            answer = await stack.edit(instruction="remove the rain", headers=headers)
            assert answer.status_code == 200, answer.text
            request = edit_pb2.EditRequest(image=photo(), instruction="rain, again")
            await stub_of(channel).Edit(request, metadata=(("traceparent", SENT),))
        job = await stack.queue.get(answer.headers["x-job-id"])
    spans = collector.spans
    request_span = spans["api: POST /v1/edit"]
    assert request_span.parent_span_id.hex() == CALLER
    assert spans["api: Edit"].parent_span_id.hex() == CALLER
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    edit = spans["worker: edit"]
    parents = {request_span.span_id, spans["api: Edit"].span_id}
    assert {edit.parent_span_id, spans["selector: plan"].parent_span_id} <= parents
    stages = [spans[f"worker: {name}"] for name in ("decode", "denoise", "encode")]
    assert all(stage.parent_span_id == edit.span_id for stage in stages)
    assert all(edit.start_time_unix_nano <= stage.start_time_unix_nano for stage in stages)
    # The engine says 0.1 s of denoising: to the job, the headers and the spans.
    lasted_s = (stages[1].end_time_unix_nano - stages[1].start_time_unix_nano) / 1e9
    assert lasted_s == pytest.approx(job.timings.denoise_s, abs=1e-4)
    assert "denoise;dur=100.0" in answer.headers["server-timing"]
    ended = [line for line in caplog.records if line.getMessage() == "succeeded derain"]
    assert {line.__dict__["trace_id"] for line in ended} == {TRACE}
    told = json.loads(JsonFormatter().format(ended[0]))
    assert told["job_id"] == job.id
    assert told["timings"]["denoise_s"] == job.timings.denoise_s


def test_a_valid_context_is_continued_and_any_other_starts_a_trace() -> None:
    inner = TraceContext.within(SENT)
    assert (inner.trace_id, inner.parent_id) == (TRACE, CALLER)
    assert trace_id_of(inner.traceparent) == TRACE
    for wrong in ("", "junk", SENT[:-1], f"00-{'0' * 32}-{CALLER}-01", SENT.upper()):
        fresh = TraceContext.within(wrong)
        assert fresh.parent_id == ""
        assert fresh.trace_id != TraceContext.within(wrong).trace_id


def test_without_a_collector_nothing_is_sent_and_without_the_extra_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Tracer.connect("", "api").close()
    monkeypatch.setitem(sys.modules, "service.tracing_export", None)
    with pytest.raises(InvalidRequest, match="install the extra otel"):
        Tracer.connect("http://127.0.0.1:9/v1/traces", "api")
