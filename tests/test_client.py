"""The clients against a real server: results, errors, retries, deadlines."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from service import errors
from service.client import AsyncClient, Client
from service.images import decode
from service.jobs import EditRequest, Job, JobStatus
from service.queue_records import Event
from tests.api_stack import LIMITS, Stack, listening, photo, serving


@pytest.fixture
async def stack(redis_url: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with serving(redis_url, tmp_path) as stack:
        yield stack


@pytest.fixture
async def url(stack: Stack) -> AsyncIterator[str]:
    async with listening(stack.app) as url:
        yield url


def refusing(*answers: httpx.Response) -> httpx.MockTransport:
    """A server that gives one answer after the other, then the last one for ever."""
    left = list(answers)
    return httpx.MockTransport(lambda _: left.pop(0) if len(left) > 1 else left[0])


def problem(code: str, status: int, retry_after_s: int | None = None) -> httpx.Response:
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return httpx.Response(status, headers=headers, json={"code": code, "detail": "no"})


def job_answer() -> httpx.Response:
    return httpx.Response(200, content=Job(request=EditRequest()).model_dump_json())


async def test_edit_returns_image_plan_seed_and_timings(url: str) -> None:
    async with AsyncClient(url) as client:
        result = await client.edit(photo(), "derain lowlight", seed=11)
    np.testing.assert_array_equal(decode(result.image, LIMITS), 255 - decode(photo(), LIMITS))
    assert result.media_type == "image/png"
    assert result.plan.runnable == ("derain", "lowlight")
    assert result.plan.scores["derain"] == 0.9
    assert (result.seed, result.no_op) == (11, False)
    assert result.versions == {"derain": "1.0.0", "lowlight": "1.0.0"}
    assert result.timings.denoise_s == 0.25


async def test_a_mask_a_quality_and_metadata_are_sent(url: str, tmp_path: Path) -> None:
    black = np.zeros((32, 48), np.uint8)
    black[0, 0] = 255
    mask = tmp_path / "mask.png"
    Image.fromarray(black).save(mask)
    async with AsyncClient(url) as client:
        result = await client.edit(photo(), "derain", metadata="strip", mask=mask)
        with pytest.raises(errors.InvalidRequest, match="png loses nothing"):
            await client.edit(photo(), "derain", output_quality=50)
    before = decode(photo(), LIMITS)
    np.testing.assert_array_equal(decode(result.image, LIMITS)[8:], before[8:])


async def test_blocking_client_does_the_same(url: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(photo())

    def use() -> None:
        with Client(url) as client:
            result = client.edit(path, plugins=["lowlight"], output_format="jpeg")
            assert result.media_type == "image/jpeg"
            assert result.plan.runnable == ("lowlight",)
            assert client.get(result.job_id).status is JobStatus.SUCCEEDED
            assert client.cancel(result.job_id).status is JobStatus.SUCCEEDED
            assert client.plan(path, "derain").runnable == ("derain",)
            with pytest.raises(errors.UnknownPlugin, match="decloud"):
                client.edit(path, plugins=["decloud"])

    await asyncio.to_thread(use)


async def test_errors_are_those_of_the_service(url: str) -> None:
    async with AsyncClient(url, timeout_s=5) as client:
        with pytest.raises(errors.UnsupportedImageType, match="send one of PNG"):
            await client.edit(b"text", "derain")
        with pytest.raises(errors.EditFailed, match="the engine broke"):
            await client.edit(photo(), "derain break")
        with pytest.raises(errors.JobNotFound):
            await client.get("nobody")


async def test_deadline_travels_to_the_server(stack: Stack, url: str) -> None:
    async with AsyncClient(url, timeout_s=0.5) as client:
        with pytest.raises(errors.DeadlineExceeded):
            await client.edit(photo(), "derain hold")
    assert await _statuses(stack) == [JobStatus.EXPIRED]


async def _statuses(stack: Stack) -> list[JobStatus]:
    keys = await stack.queue.redis.keys(f"{stack.settings.key_prefix}:job:*")
    return [(await stack.queue.get(key.decode().rsplit(":", 1)[-1])).status for key in keys]


@pytest.mark.parametrize(("code", "status"), [("overloaded", 429), ("no_worker", 503)])
async def test_unavailable_is_tried_again(code: str, status: int) -> None:
    transport = refusing(problem(code, status, 0), job_answer())
    async with AsyncClient("http://test", transport=transport) as client:
        assert (await client.get("x")).status is JobStatus.QUEUED


def test_blocking_client_tries_again_too() -> None:
    transport = refusing(problem("overloaded", 429, 0), job_answer())
    with Client("http://test", transport=transport) as client:
        assert client.get("x").status is JobStatus.QUEUED


async def test_retry_after_beyond_the_deadline_is_not_waited_for() -> None:
    transport = refusing(problem("overloaded", 429, 30))
    async with AsyncClient("http://test", timeout_s=5, transport=transport) as client:
        started = time.monotonic()
        with pytest.raises(errors.Overloaded) as caught:
            await client.get("x")
    assert time.monotonic() - started < 1
    assert caught.value.retry_after_s == 30


async def test_client_error_is_not_tried_again() -> None:
    transport = refusing(problem("job_not_found", 404), job_answer())
    async with AsyncClient("http://test", transport=transport) as client:
        with pytest.raises(errors.JobNotFound):
            await client.get("x")


async def test_answer_that_is_no_problem_is_an_error_with_its_status() -> None:
    transport = refusing(httpx.Response(502, text="<html>bad gateway</html>"))
    async with AsyncClient("http://test", transport=transport) as client:
        with pytest.raises(errors.DiffPluginError, match="HTTP 502"):
            await client.get("x")


@pytest.mark.parametrize("kind", errors.leaves())
async def test_every_error_comes_back_as_its_class(kind: type[errors.DiffPluginError]) -> None:
    transport = refusing(problem(kind.code, 400, 60))
    async with AsyncClient("http://test", timeout_s=1, transport=transport) as client:
        with pytest.raises(kind) as caught:
            await client.get("x")
    assert type(caught.value) is kind


async def test_no_server_says_so() -> None:
    async with AsyncClient("http://127.0.0.1:1") as client:
        with pytest.raises(errors.Unavailable, match="is it running"):
            await client.get("x")


async def test_submitted_job_is_watched_and_its_result_fetched(url: str) -> None:
    async with AsyncClient(url, timeout_s=20) as client:
        job = await client.submit(photo(), "derain", seed=3)
        events = [event async for event in client.watch(job.id)]
        result = await client.result(job.id)
    assert events[0].status is JobStatus.QUEUED
    assert events[-1].status is JobStatus.SUCCEEDED
    assert (result.seed, result.job_id) == (3, job.id)
    np.testing.assert_array_equal(decode(result.image, LIMITS), 255 - decode(photo(), LIMITS))


async def test_blocking_client_submits_watches_and_cancels(url: str) -> None:
    def use() -> None:
        with Client(url, timeout_s=20) as client:
            job = client.submit(photo(), "derain hold")
            events = client.watch(job.id)
            assert next(events).status is JobStatus.QUEUED
            client.cancel(job.id)
            assert list(events)[-1].status is JobStatus.CANCELED
            with pytest.raises(errors.JobCanceled):
                client.result(job.id)
            with pytest.raises(errors.JobNotFound):
                list(client.watch("nobody"))

    await asyncio.to_thread(use)


def event_text(number: int, status: JobStatus) -> str:
    event = Event(kind="status", status=status, at=0)
    return f"id: {number}-0\nevent: status\ndata: {event.model_dump_json()}\n\n"


async def test_broken_watch_is_resumed_after_the_last_event() -> None:
    seen = []

    def serve(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("last-event-id"))
        status = JobStatus.QUEUED if len(seen) == 1 else JobStatus.SUCCEEDED
        return httpx.Response(200, text=event_text(len(seen), status))

    async with AsyncClient("http://test", transport=httpx.MockTransport(serve)) as client:
        events = [event.status async for event in client.watch("x")]
    assert events == [JobStatus.QUEUED, JobStatus.SUCCEEDED]
    assert seen == [None, "1-0"]


async def test_watch_ends_at_the_deadline(url: str) -> None:
    async with AsyncClient(url, timeout_s=20) as client:
        job = await client.submit(photo(), "derain hold")
        client.timeout_s = 0.0
        with pytest.raises(errors.DeadlineExceeded):
            [event async for event in client.watch(job.id)]


async def test_proxy_of_the_environment_is_not_asked_for_loopback(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with AsyncClient(url) as client:
        with pytest.raises(errors.JobNotFound):
            await client.get("nobody")
    with Client(url) as blocking, pytest.raises(errors.JobNotFound):
        await asyncio.to_thread(blocking.get, "nobody")
