"""A full queue refuses early, with a time to come back; by number, by bytes and by work."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from service.jobs import WorkerInfo
from service.queue_limits import Demand, Refusal
from service.queue_records import QueueSettings
from tests.api_stack import Stack, photo, running_role, serving

ASYNC = {"Prefer": "respond-async"}


async def serve_until_full(stack: Stack, **worker: float) -> None:
    info = {"name": "stopped", "role": "worker", **worker}
    await stack.queue.heartbeat(WorkerInfo.model_validate(info))


async def submit(stack: Stack) -> httpx.Response:
    return await stack.edit(plugins="derain", headers=ASYNC)


async def test_of_many_at_once_as_many_are_admitted_as_may_wait_and_all_of_those_end(
    redis_url: str, tmp_path: Path
) -> None:
    async with serving(redis_url, tmp_path, (), max_queue_depth=20, heartbeat_s=20.0) as stack:
        await serve_until_full(stack)
        answers = await asyncio.gather(*(submit(stack) for _ in range(60)))
        refused = [answer for answer in answers if answer.status_code == 429]
        admitted = [answer.json()["id"] for answer in answers if answer.status_code == 202]
        assert (len(admitted), len(refused)) == (20, 40)
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
        assert {answer.json()["code"] for answer in refused} == {"overloaded"}
        for path in ("/livez", "/metrics", "/v1/plugins", f"/v1/edits/{admitted[0]}"):
            assert (await stack.client.get(path)).status_code == 200
        async with running_role(stack.queue, "worker"):
            ends = await asyncio.gather(*(stack.queue.wait(i, 20) for i in admitted))
        assert {job.status.value for job in ends} == {"succeeded"}
        async with asyncio.timeout(5):  # once there is room again, it is noticed
            while (await submit(stack)).status_code == 429:
                await asyncio.sleep(0.05)


async def test_a_refused_request_is_not_read(redis_url: str, tmp_path: Path) -> None:
    num_read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal num_read
        num_read += 1
        yield photo()

    async with serving(redis_url, tmp_path, (), max_queue_depth=1, heartbeat_s=20.0) as stack:
        await serve_until_full(stack)
        assert (await submit(stack)).status_code == 202
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        refused = await stack.client.post("/v1/edit", content=body(), headers=headers)
        assert (refused.status_code, num_read) == (429, 0)


async def test_a_place_that_was_not_used_is_free_again(redis_url: str, tmp_path: Path) -> None:
    async with serving(redis_url, tmp_path, (), max_queue_depth=1, heartbeat_s=20.0) as stack:
        await serve_until_full(stack)
        for _ in range(3):
            assert (await stack.edit(plugins="nonsense", headers=ASYNC)).status_code == 422
        assert (await submit(stack)).status_code == 202


async def test_pictures_are_limited_by_their_bytes(redis_url: str, tmp_path: Path) -> None:
    limit = int(2.5 * len(photo()))
    async with serving(redis_url, tmp_path, (), max_queue_bytes=limit, heartbeat_s=20.0) as stack:
        await serve_until_full(stack)
        answers = [await submit(stack) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [202, 202, 429]
        assert f"{2 * len(photo())} bytes" in answers[2].json()["detail"]
        await stack.client.post(f"/v1/edits/{answers[0].json()['id']}/cancel")
        assert (await submit(stack)).status_code == 202


async def test_work_is_limited_by_the_time_that_it_takes(redis_url: str, tmp_path: Path) -> None:
    # A job of 48 x 32 pixels and 20 steps takes 10 s at this rate.
    rate = 48 * 32 * 20 / 10
    settings = {"max_queue_s": 15.0, "heartbeat_s": 20.0}
    async with serving(redis_url, tmp_path, (), **settings) as stack:
        await serve_until_full(stack, pixel_steps_per_s=rate)
        answers = [await submit(stack) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [202, 202, 429]
        assert "take about 20 s and at most 15 s" in answers[2].json()["detail"]
        assert answers[2].headers["Retry-After"] in ("5", "6")
        await stack.client.post(f"/v1/edits/{answers[0].json()['id']}/cancel")
        assert (await submit(stack)).status_code == 202


def test_a_refusal_for_work_comes_back_when_the_rest_fits() -> None:
    settings, demand = QueueSettings(max_wait_s=60.0), Demand(0, rate=1000.0)
    error = Refusal("work", 3, 100, 90, retry_after_s=7).error(settings, demand)
    assert error.retry_after_s == 30
