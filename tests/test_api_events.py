"""Events of a job over real HTTP: they come as they happen, resume, and keep the line open."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import httpx
import pytest

from service.api.events import KEEP_ALIVE, keep_alive
from service.jobs import JobStatus
from tests.api_stack import Stack, listening, serving, until


@pytest.fixture
async def stack(redis_url: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with serving(redis_url, tmp_path) as stack:
        yield stack


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        listening(stack.app) as url,
        httpx.AsyncClient(base_url=url, trust_env=False) as client,
    ):
        yield client


async def submitted(stack: Stack, instruction: str) -> str:
    answer = await stack.edit(instruction=instruction, headers={"Prefer": "respond-async"})
    job_id: str = answer.json()["id"]
    return job_id


def fields_of(text: str) -> list[dict[str, str]]:
    """The fields of each event of a stream."""
    return [
        dict(line.split(": ", 1) for line in block.splitlines())
        for block in text.split("\n\n")
        if block and not block.startswith(":")
    ]


async def test_events_of_a_job_end_with_done(stack: Stack, client: httpx.AsyncClient) -> None:
    job_id = await submitted(stack, "derain")
    async with asyncio.timeout(5):
        answer = await client.get(f"/v1/edits/{job_id}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = fields_of(answer.text)
    assert [event["event"] for event in events[:-1]] == ["status"] * (len(events) - 1)
    assert events[-1]["event"] == "done"
    assert '"status":"succeeded"' in events[-1]["data"]


async def test_events_come_while_the_job_runs(stack: Stack, client: httpx.AsyncClient) -> None:
    job_id = await submitted(stack, "derain hold")
    async with asyncio.timeout(5), client.stream("GET", f"/v1/edits/{job_id}/events") as answer:
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith("id: ")
        await stack.queue.cancel(job_id)
        rest = [line async for line in lines]
    assert "event: done" in rest
    assert any('"status":"canceled"' in line for line in rest)


async def test_last_event_id_resumes(stack: Stack, client: httpx.AsyncClient) -> None:
    job_id = await submitted(stack, "derain")
    await until(stack.queue, job_id, lambda job: job.status.is_final)
    path = f"/v1/edits/{job_id}/events"
    events = fields_of((await client.get(path)).text)
    resumed = await client.get(path, headers={"Last-Event-ID": events[0]["id"]})
    assert fields_of(resumed.text) == events[1:]
    ended = await client.get(path, headers={"Last-Event-ID": events[-1]["id"]})
    assert ended.status_code == 204


async def test_wrong_ids_are_refused(stack: Stack, client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/edits/nobody/events")).status_code == 404
    job_id = await submitted(stack, "derain")
    headers = {"Last-Event-ID": "yesterday"}
    answer = await client.get(f"/v1/edits/{job_id}/events", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_silence_is_filled_with_comments() -> None:
    go_on = asyncio.Event()

    async def texts() -> AsyncIterator[str]:
        yield "one"
        await go_on.wait()
        yield "two"

    async with asyncio.timeout(5), aclosing(keep_alive(texts(), interval_s=0.01)) as kept:
        assert await anext(kept) == "one"
        assert await anext(kept) == KEEP_ALIVE
        go_on.set()
        assert [text async for text in kept if text != KEEP_ALIVE] == ["two"]


@pytest.mark.parametrize("prefer", ["wait=0", "wait=1, respond-async", "respond-async; wait=1"])
async def test_preferred_wait_ends_with_the_job_as_it_stands(stack: Stack, prefer: str) -> None:
    async with asyncio.timeout(4):
        answer = await stack.edit(instruction="derain hold", headers={"Prefer": prefer})
    assert answer.status_code == 202
    assert answer.headers["preference-applied"].startswith("wait=")
    job = await stack.queue.get(answer.json()["id"])
    assert answer.headers["location"] == f"/v1/edits/{job.id}"
    assert not job.status.is_final


async def test_preferred_wait_answers_with_the_image_if_it_is_ready(stack: Stack) -> None:
    answer = await stack.edit(instruction="derain", headers={"Prefer": "wait=20"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    failed = await stack.edit(instruction="derain break", headers={"Prefer": "wait=20"})
    assert failed.status_code == 500
    job = await stack.queue.get(answer.headers["x-job-id"])
    assert job.status is JobStatus.SUCCEEDED
