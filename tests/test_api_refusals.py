"""Requests that cannot succeed are refused at once, with a stable code and what to change."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from service.jobs import EditRequest, Job, WorkerInfo
from tests.api_stack import Stack, listening, photo, serving
from tests.test_images import file_of, png_with_header


@pytest.fixture
async def stack(redis_url: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with serving(redis_url, tmp_path, max_image_bytes=200_000, min_image_side=16) as stack:
        yield stack


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["code"]


async def num_jobs(stack: Stack) -> int:
    return len(await stack.queue.redis.keys(f"{stack.settings.key_prefix}:job:*"))


@pytest.mark.parametrize(
    ("image", "expected", "says"),
    [
        (b"not a picture at all", (415, "unsupported_image_type"), "send one of PNG"),
        (photo()[:1000], (422, "invalid_image"), "truncated"),
        (b"", (422, "invalid_image"), "0 bytes"),
        (png_with_header(20_000, 20_000), (413, "image_too_large"), "too many pixels"),
        (bytes(200_001), (413, "image_too_large"), "at most 200000"),
        (photo(8, 8), (422, "invalid_image"), "at least 16"),
    ],
    ids=["text", "truncated", "empty", "bomb", "bytes", "tiny"],
)
async def test_bad_image_is_refused(
    stack: Stack, image: bytes, expected: tuple[int, str], says: str
) -> None:
    answer = await stack.edit(image, instruction="derain")
    assert problem(answer) == expected
    assert says in answer.json()["detail"]
    assert await num_jobs(stack) == 0


@pytest.mark.parametrize(
    ("mask", "code", "says"),
    [
        (photo(47, 32), "invalid_request", "47x32 pixels"),
        (b"", "invalid_request", "0 bytes"),
        (photo()[:500], "invalid_image", "damaged"),
        (b"white", "unsupported_image_type", "send one of PNG"),
        (file_of(Image.new("L", (48, 32)), "PNG"), "invalid_request", "all black"),
    ],
    ids=["size", "empty", "truncated", "text", "black"],
)
async def test_bad_mask_is_refused(stack: Stack, mask: bytes, code: str, says: str) -> None:
    files = {"image": photo(), "mask": ("mask.png", mask)}
    answer = await stack.client.post("/v1/edit", data={"instruction": "derain"}, files=files)
    assert problem(answer)[1] == code
    assert says in answer.json()["detail"]
    assert await num_jobs(stack) == 0


async def test_a_plan_takes_no_mask(stack: Stack) -> None:
    files = {"image": photo(), "mask": photo()}
    answer = await stack.client.post("/v1/plan", data={"instruction": "derain"}, files=files)
    assert problem(answer) == (422, "invalid_request")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"instruction": "x" * 100_000}, "100000 characters; at most 1000"),
        ({"instruction": "derain", "stepz": "4"}, "'stepz' is unknown; the fields are image, "),
        ({"instruction": "derain", "steps": "0"}, "'steps'"),
        ({"instruction": "derain", "steps": "101"}, "at most 100"),
        ({"instruction": "derain", "steps": "many"}, "'steps'"),
        ({"instruction": "derain", "seed": "-1"}, "'seed'"),
        ({"instruction": "derain", "output_format": "gif"}, "'jpeg', 'webp', 'avif' or 'tiff'"),
        ({"instruction": "derain", "output_quality": "50"}, "png loses nothing"),
        ({"instruction": "derain", "output_format": "jpeg", "output_quality": "0"}, "'output_q"),
        ({"instruction": "derain", "metadata": "some"}, "'keep' or 'strip'"),
        ({"instruction": "derain", "timeout": "0"}, "'timeout'"),
        ({"instruction": "derain", "timeout": "nan"}, "'timeout'"),
        ({"instruction": "derain", "timeout": "1e9"}, "timeout may be at most"),
        ({"instruction": ["derain", "lowlight"]}, "sent 2 times"),
        ({"plugins": ",".join(["derain"] * 9)}, "at most 8 plugins"),
        ({"instruction": "  "}, "send an instruction, or name plugins"),
        ({"plugins": " , "}, "send an instruction, or name plugins"),
        ({}, "send an instruction, or name plugins"),
    ],
)
async def test_bad_field_is_refused(stack: Stack, fields: dict[str, Any], says: str) -> None:
    answer = await stack.edit(**fields)
    assert problem(answer) == (422, "invalid_request")
    assert says in answer.json()["detail"]
    assert await num_jobs(stack) == 0


async def test_unknown_plugin_is_refused_with_those_there_are(stack: Stack) -> None:
    answer = await stack.edit(plugins="derain,decloud")
    assert problem(answer) == (422, "unknown_plugin")
    assert "'decloud'; installed are: derain, lowlight" in answer.json()["detail"]


async def test_query_parameter_is_not_ignored(stack: Stack) -> None:
    answer = await stack.edit(path="/v1/edit?steps=3", instruction="derain")
    assert problem(answer) == (422, "invalid_request")


async def test_plan_takes_no_field_that_it_would_ignore(stack: Stack) -> None:
    answer = await stack.edit(path="/v1/plan", instruction="derain", steps="4")
    assert problem(answer) == (422, "invalid_request")


async def test_body_that_is_no_form_is_refused(stack: Stack) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = await stack.client.post("/v1/edit", content=b"garbage", headers=headers)
    assert problem(answer) == (422, "invalid_request")


async def test_image_must_be_a_file_and_be_there(stack: Stack) -> None:
    text = await stack.client.post("/v1/edit", files={"image": (None, "text")})
    assert problem(text) == (422, "invalid_image")
    none = await stack.client.post("/v1/edit", files={"instruction": (None, "derain")})
    assert "'image' is missing" in none.json()["detail"]


async def test_wrong_method_and_unknown_route(stack: Stack) -> None:
    assert problem(await stack.client.get("/v1/edit")) == (405, "method_not_allowed")
    assert problem(await stack.client.get("/v1/edot")) == (404, "route_not_found")


@pytest.mark.parametrize("method_path", ["GET /", "GET /result", "POST /cancel"])
async def test_unknown_job_is_not_found(stack: Stack, method_path: str) -> None:
    method, path = method_path.split()
    answer = await stack.client.request(method, "/v1/edits/nobody" + path.rstrip("/"))
    assert problem(answer) == (404, "job_not_found")


@pytest.mark.parametrize(
    ("roles", "fields"),
    [
        ([], {"instruction": "derain"}),
        (["selector"], {"instruction": "derain"}),
        (["worker"], {"instruction": "derain"}),
        (["selector"], {"plugins": "derain"}),
        (["worker"], {"instruction": "derain", "path": "/v1/plan"}),
    ],
)
async def test_missing_role_is_503_at_once(
    redis_url: str, tmp_path: Path, roles: list[str], fields: dict[str, str]
) -> None:
    async with serving(redis_url, tmp_path, roles=roles) as stack:
        started = time.monotonic()
        answer = await stack.edit(**fields)
        assert time.monotonic() - started < 1
        assert problem(answer) == (503, "no_worker")
        assert int(answer.headers["retry-after"]) > 0
        assert await num_jobs(stack) == 0


async def test_full_queue_is_429(redis_url: str, tmp_path: Path) -> None:
    async with serving(redis_url, tmp_path, roles=[], max_queue_depth=1) as stack:
        for role in ("worker", "selector"):
            await stack.queue.heartbeat(
                WorkerInfo.model_validate({"name": f"idle-{role}", "role": role})
            )
        await stack.queue.submit(Job(request=EditRequest(instruction="derain")), photo())
        answer = await stack.edit(instruction="derain")
    assert problem(answer) == (429, "overloaded")
    assert int(answer.headers["retry-after"]) > 0


async def test_lost_redis_is_503(tmp_path: Path) -> None:
    async with serving("unix:///nowhere/redis.sock", tmp_path, roles=[]) as stack:
        answer = await stack.edit(instruction="derain")
    assert problem(answer) == (503, "queue_unavailable")


async def test_too_large_body_is_refused_before_it_is_read(stack: Stack) -> None:
    limit = stack.settings.max_image_bytes + 2**20
    num_sent = 0

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    prefix = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal num_sent
        yield prefix
        while num_sent < 3 * limit:
            num_sent += 2**16
            yield bytes(2**16)

    answer = await stack.client.post("/v1/edit", content=chunks(), headers=headers)
    assert problem(answer) == (413, "image_too_large")
    assert num_sent < 2 * limit


async def test_declared_length_alone_is_enough_to_refuse(stack: Stack) -> None:
    head = b"POST /v1/edit HTTP/1.1\r\nHost: test\r\nContent-Length: 99999999\r\n\r\n"
    async with listening(stack.app) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
        writer.write(head)
        async with asyncio.timeout(5):
            status_line = await reader.readline()
        writer.close()
        await writer.wait_closed()
    assert b" 413 " in status_line
