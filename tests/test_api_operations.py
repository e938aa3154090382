"""What those who run the service see: health, metrics, the page, the OpenAPI document, the log."""

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service import __version__
from service.metrics_worker import EngineMetrics
from tests.api_stack import Stack, running_role, serving


@pytest.fixture
async def stack(redis_url: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with serving(redis_url, tmp_path) as stack:
        yield stack


async def test_ready_with_a_worker_and_a_selector(stack: Stack) -> None:
    answer = await stack.client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ready", "missing": [], "workers": 1, "selectors": 1}


async def test_readiness_names_what_is_missing(redis_url: str, tmp_path: Path) -> None:
    async with serving(redis_url, tmp_path, roles=[]) as stack:
        nobody = await stack.client.get("/readyz")
        async with running_role(stack.queue, "worker"):
            no_selector = await stack.client.get("/readyz")
    assert nobody.status_code == no_selector.status_code == 503
    assert [line.split(":")[0] for line in nobody.json()["missing"]] == ["worker", "selector"]
    assert [line.split(":")[0] for line in no_selector.json()["missing"]] == ["selector"]


async def test_without_redis_it_is_live_and_not_ready(tmp_path: Path) -> None:
    async with serving("unix:///nowhere/redis.sock", tmp_path, roles=[]) as stack:
        live, ready, metrics = [
            await stack.client.get(path) for path in ("/livez", "/readyz", "/metrics")
        ]
    assert live.status_code == 200
    assert ready.status_code == 503
    assert ready.json()["missing"][0].startswith("redis:")
    assert "diffplugin_queue_up 0.0" in metrics.text


async def test_metrics_count_requests_by_route_and_code(stack: Stack) -> None:
    await stack.edit(instruction="derain")
    await stack.edit(b"text", instruction="derain")
    await stack.client.get("/v1/edits/one")
    await stack.client.get("/v1/edits/two")
    await stack.client.get("/no/such/path")
    text = (await stack.client.get("/metrics")).text
    assert 'diffplugin_http_requests_total{code="200",route="/v1/edit"} 1.0' in text
    assert 'diffplugin_http_requests_total{code="415",route="/v1/edit"} 1.0' in text
    assert 'diffplugin_http_requests_total{code="404",route="/v1/edits/{job_id}"} 2.0' in text
    assert 'diffplugin_http_requests_total{code="404",route="none"} 1.0' in text
    assert 'diffplugin_request_duration_seconds_count{route="/v1/edit"} 2.0' in text
    assert "diffplugin_in_flight 1.0" in text


async def test_metrics_show_the_queue_and_the_workers_batches(stack: Stack) -> None:
    engine = EngineMetrics()
    engine.observe_batch(("derain", "lowlight"), 0.1)
    await engine.publish(stack.queue, "fake-worker")
    await stack.edit(instruction="derain hold", headers={"Prefer": "respond-async"})
    text = (await stack.client.get("/metrics")).text
    assert "diffplugin_queue_up 1.0" in text
    assert "diffplugin_dead_letters 0.0" in text
    assert 'diffplugin_queue_lag_seconds{priority="normal",stage="run"} 0.0' in text
    assert (
        'diffplugin_worker_heartbeat_timestamp_seconds{role="worker",worker="fake-worker"}' in text
    )
    assert 'diffplugin_queue_depth{priority="low",stage="plan"}' in text
    assert 'diffplugin_workers{role="worker"} 1.0' in text
    assert 'diffplugin_shared_batches_total{worker="fake-worker"} 1.0' in text
    assert 'diffplugin_rows_total{plugin="lowlight",worker="fake-worker"} 1.0' in text


async def test_openapi_tells_the_fields_of_the_form(stack: Stack) -> None:
    spec = (await stack.client.get("/openapi.json")).json()
    assert spec["openapi"].startswith("3.1")
    body = spec["paths"]["/v1/edit"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert set(body["schema"]["properties"]) == {
        "image",
        "instruction",
        "plugins",
        "steps",
        "seed",
        "output_format",
        "priority",
        "output_quality",
        "metadata",
        "mask",
        "plan",
        "previews",
        "strength",
        "timeout",
        "webhook",
        "webhook_events_filter",
    }
    assert "422" not in json.dumps(list(spec["paths"]["/v1/edit"]["post"]["responses"]))


async def test_request_is_logged_with_its_ids(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="service")
    answer = await stack.edit(instruction="derain", headers={"X-Request-Id": "req-7"})
    (record,) = [line for line in caplog.records if line.getMessage() == "POST /v1/edit"]
    assert record.__dict__["request_id"] == "req-7"
    assert record.__dict__["job_id"] == answer.headers["x-job-id"]
    assert (
        record.__dict__["trace_id"]
        in (await stack.queue.get(record.__dict__["job_id"])).traceparent
    )
    assert record.__dict__["status"] == 200


async def test_open_inference_protocol_probes_answer(redis_url: str, tmp_path: Path) -> None:
    async with serving(redis_url, tmp_path, roles=["selector"]) as stack:
        live = await stack.client.get("/v2/health/live")
        early = await stack.client.get("/v2/health/ready")
        async with running_role(stack.queue, "worker"), running_role(stack.queue, "selector"):
            ready = await stack.client.get("/v2/health/ready")
        server = await stack.client.get("/v2")
    assert (live.status_code, live.json()) == (200, {"live": True})
    assert (early.status_code, early.json()) == (503, {"ready": False})
    assert (ready.status_code, ready.json()) == (200, {"ready": True})
    assert server.json() == {"name": "diffplugin-serve", "version": __version__, "extensions": []}
