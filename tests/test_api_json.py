"""Edits as JSON with base64, under ids that callers choose, by plans that they changed."""

import base64
import json
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.jobs import JobStatus, WorkerInfo
from tests.api_stack import Stack, photo, serving, until
from tests.test_images import file_of


@pytest.fixture
async def stack(redis_url: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with serving(redis_url, tmp_path) as stack:
        yield stack


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def body(**fields: Any) -> dict[str, Any]:
    return {"image": base64_of(photo()), "instruction": "derain", **fields}


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data)))


async def test_json_gives_the_bytes_that_a_form_gives(stack: Stack) -> None:
    mask = np.zeros((32, 48), np.uint8)
    mask[:, :24] = 255
    file = file_of(Image.fromarray(mask), "PNG")
    fields = {"seed": 7, "plugins": ["lowlight"], "output_format": "webp", "strength": 0.5}
    sent = body(mask=base64_of(file), **fields)
    as_json = await stack.client.post("/v1/edit", json=sent)
    files = {"image": photo(), "mask": file}
    data = {**fields, "instruction": "derain"}
    as_form = await stack.client.post("/v1/edit", data=data, files=files)
    assert as_json.status_code == 200, as_json.text
    assert as_json.headers["content-type"] == "image/webp"
    assert as_json.content == as_form.content


@pytest.mark.parametrize(
    ("sent", "code", "says"),
    [
        (b"{", "invalid_request", "not JSON"),
        (b"[]", "invalid_request", "JSON object"),
        (b'{"instruction": "derain"}', "invalid_request", "'image' is missing"),
        (json.dumps(body(image="*")).encode(), "invalid_request", "'image' is not base64"),
        (json.dumps(body(image=7)).encode(), "invalid_request", "'image' is not base64"),
        (json.dumps(body(image="")).encode(), "invalid_image", "0 bytes"),
        (json.dumps(body(mask="")).encode(), "invalid_image", "'mask' is empty"),
        (json.dumps(body(steps="4")).encode(), "invalid_request", "'steps'"),
        (json.dumps(body(steps=True)).encode(), "invalid_request", "'steps'"),
        (json.dumps(body(step=4)).encode(), "invalid_request", "'step' is unknown"),
        (json.dumps(body(strength=1.5)).encode(), "invalid_request", "'strength'"),
        (b'{"image": "", "strength": NaN}', "invalid_request", "not JSON"),
        (json.dumps(body(image=base64_of(b"GIF89a"))).encode(), "unsupported_image_type", "PNG"),
    ],
)
async def test_bad_json_is_refused(stack: Stack, sent: bytes, code: str, says: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await stack.client.post("/v1/edit", content=sent, headers=headers)
    assert answer.json()["code"] == code
    assert says in answer.json()["detail"]


async def test_a_body_of_another_type_is_refused(stack: Stack) -> None:
    answer = await stack.client.post("/v1/edit", content=photo())
    assert answer.json()["code"] == "invalid_request"
    assert "multipart/form-data" in answer.json()["detail"]


async def test_strength_scales_the_change(stack: Stack) -> None:
    none, half = [
        pixels_of((await stack.client.post("/v1/edit", json=body(strength=share))).content)
        for share in (0, 0.5)
    ]
    before = pixels_of(photo()).astype(float)
    np.testing.assert_array_equal(none, before)
    np.testing.assert_allclose(half, 127.5, atol=0.51)  # half way to its inverse


async def put(stack: Stack, name: str, headers: Any = None, **fields: Any) -> httpx.Response:
    return await stack.client.put(f"/v1/edits/{name}", json=body(**fields), headers=headers)


async def test_put_twice_is_one_job_under_the_callers_id(stack: Stack) -> None:
    first, second = await put(stack, "photo-17"), await put(stack, "photo-17")
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.headers["x-job-id"] == second.headers["x-job-id"] == "photo-17"
    assert first.content == second.content
    keys = await stack.queue.redis.keys(f"{stack.settings.key_prefix}:job:*")
    assert len(keys) == 1
    answer = await stack.client.get("/v1/edits/photo-17/result")
    assert answer.content == first.content


async def test_put_of_something_else_under_a_used_id_is_refused(stack: Stack) -> None:
    await put(stack, "photo-17")
    other = await put(stack, "photo-17", instruction="lowlight")
    assert (other.status_code, other.json()["code"]) == (422, "invalid_request")
    posted = await stack.client.post("/v1/edit", json=body())
    taken = await put(stack, posted.headers["x-job-id"])
    assert (taken.status_code, taken.json()["code"]) == (422, "invalid_request")


async def test_put_takes_preferences_and_no_second_key(stack: Stack) -> None:
    answer = await put(stack, "later", headers={"Prefer": "respond-async"})
    assert (answer.status_code, answer.headers["location"]) == (202, "/v1/edits/later")
    await until(stack.queue, "later", lambda job: job.status is JobStatus.SUCCEEDED)
    answer = await put(stack, "other", headers={"Idempotency-Key": "x"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("name", ["a b", "-x", "x" * 65, "%C3%A9"])
async def test_an_id_that_is_none_is_refused(stack: Stack, name: str) -> None:
    answer = await put(stack, name)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_an_edited_plan_runs_as_it_was_edited(stack: Stack) -> None:
    planned = await stack.client.post("/v1/plan", json=body(instruction="derain lowlight"))
    plan = planned.json()["plan"]
    plan["tasks"].reverse()
    answer = await stack.client.post("/v1/edit", json=body(plan=plan))
    assert json.loads(answer.headers["x-plan"]) == ["lowlight", "derain"]
    job = await stack.queue.get(answer.headers["x-job-id"])
    assert job.plan is not None and job.plan.scores == plan["scores"]
    as_form = await stack.edit(plan=json.dumps(plan))
    assert json.loads(as_form.headers["x-plan"]) == ["lowlight", "derain"]


async def test_a_plan_without_tasks_gives_the_photo_back(stack: Stack) -> None:
    answer = await stack.edit(plan=json.dumps({"tasks": []}))
    assert answer.content == photo()
    assert answer.headers["x-no-op"] == "true"


@pytest.mark.parametrize(
    ("fields", "code", "says"),
    [
        ({"plan": "derain"}, "invalid_request", "as JSON"),
        ({"plan": '{"task": []}'}, "invalid_request", "'task' is unknown; the fields are tasks"),
        ({"plan": '{"tasks": [{"plugin": "decloud"}]}'}, "unknown_plugin", "decloud"),
        ({"plan": '{"tasks": []}', "plugins": "derain"}, "invalid_request", "either"),
        (
            {"plan": json.dumps({"tasks": [{"plugin": "derain"}] * 9})},
            "invalid_request",
            "at most 8",
        ),
    ],
)
async def test_a_plan_that_cannot_run_is_refused(
    stack: Stack, fields: dict[str, str], code: str, says: str
) -> None:
    answer = await stack.edit(**fields)
    assert answer.json()["code"] == code
    assert says in answer.json()["detail"]


async def test_a_plan_says_how_long_it_would_take(redis_url: str, tmp_path: Path) -> None:
    async with serving(redis_url, tmp_path, roles=["selector"]) as stack:
        unknown = await stack.edit(path="/v1/plan", instruction="derain")
        assert unknown.json()["estimated_s"] is None
        worker = WorkerInfo(name="w", role="worker", step_s_per_mpx=100.0)
        await stack.queue.heartbeat(worker)
        answer = await stack.edit(path="/v1/plan", instruction="derain lowlight")
    # Two plugins of 20 steps on 48x32 pixels.
    assert answer.json()["estimated_s"] == pytest.approx(100 * 40 * 48 * 32 / 1e6, rel=0.01)
