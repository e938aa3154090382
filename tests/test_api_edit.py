"""Edits, plans and single jobs over REST: what comes back, and what becomes of the job."""

import asyncio
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

from service.jobs import JobStatus
from tests.api_stack import Stack, listening, photo, serving, until
from tests.test_image_fidelity import described_jpeg
from tests.test_images import file_of


@pytest.fixture
async def stack(redis_url: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with serving(redis_url, tmp_path) as stack:
        yield stack


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data)))


async def test_photo_and_sentence_give_the_restored_photo(stack: Stack) -> None:
    answer = await stack.edit(instruction="derain then lowlight", seed=7)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(pixels_of(answer.content), 255 - pixels_of(photo()))
    assert json.loads(answer.headers["x-plan"]) == ["derain", "lowlight"]
    assert json.loads(answer.headers["x-versions"]) == {"derain": "1.0.0", "lowlight": "1.0.0"}
    assert answer.headers["x-seed"] == "7"
    assert answer.headers["x-no-op"] == "false"
    assert "denoise;dur=250.0" in answer.headers["server-timing"]
    assert answer.headers["x-request-id"]
    assert (await stack.queue.get(answer.headers["x-job-id"])).status is JobStatus.SUCCEEDED


async def test_json_answer_holds_the_same_result_with_its_scores(stack: Stack) -> None:
    answer = await stack.edit(instruction="derain", headers={"Accept": "application/json"})
    body = answer.json()
    assert body["status"] == "succeeded"
    assert body["plan"]["tasks"] == [{"plugin": "derain", "score": 0.9, "installed": True}]
    assert body["plan"]["scores"] == {"derain": 0.9, "lowlight": 0.05}
    assert body["result"]["media_type"] == "image/png"
    result = pixels_of(base64.b64decode(body["result"]["base64"]))
    np.testing.assert_array_equal(result, 255 - pixels_of(photo()))


@pytest.mark.parametrize("plugins", ["lowlight,derain", ["lowlight", "derain"]])
async def test_named_plugins_run_in_their_order_without_selector(
    redis_url: str, tmp_path: Path, plugins: str | list[str]
) -> None:
    async with serving(redis_url, tmp_path, roles=["worker"]) as stack:
        answer = await stack.edit(plugins=plugins)
        job = await stack.queue.get(answer.headers["x-job-id"])
    assert json.loads(answer.headers["x-plan"]) == ["lowlight", "derain"]
    assert job.plan is not None and job.plan.source == "request"


async def test_absent_seed_is_chosen_and_told(stack: Stack) -> None:
    seeds = {(await stack.edit(instruction="derain")).headers["x-seed"] for _ in range(3)}
    assert len(seeds) == 3


async def test_output_format_is_what_comes_back(stack: Stack) -> None:
    answer = await stack.edit(instruction="derain", output_format="webp")
    assert answer.headers["content-type"] == "image/webp"
    assert Image.open(BytesIO(answer.content)).format == "WEBP"


async def test_quality_and_metadata_are_what_was_asked_for(stack: Stack) -> None:
    image = described_jpeg()
    wishes = [("90", "keep"), ("10", "strip")]
    answers = [
        await stack.edit(
            image, instruction="derain", output_format="jpeg", output_quality=quality, metadata=word
        )
        for quality, word in wishes
    ]
    kept, stripped = (Image.open(BytesIO(answer.content)) for answer in answers)
    assert kept.getexif()[0x013B] == "A. Body" and not stripped.getexif()
    assert kept.quantization[0][0] < stripped.quantization[0][0]


async def test_a_mask_limits_the_edit_and_leaves_the_rest_bit_exact(stack: Stack) -> None:
    mask = np.zeros((32, 48), np.uint8)
    mask[:, :24] = 255
    files = {"image": photo(), "mask": file_of(Image.fromarray(mask), "PNG")}
    answer = await stack.client.post("/v1/edit", data={"instruction": "derain"}, files=files)
    result, before = pixels_of(answer.content), pixels_of(photo())
    np.testing.assert_array_equal(result[:, 24:], before[:, 24:])
    assert np.abs(result[:, :16].astype(int) - (255 - before[:, :16])).mean() < 2


async def test_sentence_that_asks_for_nothing_gives_the_photo_back(stack: Stack) -> None:
    answer = await stack.edit(instruction="make me a sandwich")
    assert answer.headers["x-no-op"] == "true"
    assert answer.headers["x-plan"] == "[]"
    assert answer.content == photo()


async def test_plan_gives_tasks_and_scores_and_needs_no_worker(
    redis_url: str, tmp_path: Path
) -> None:
    async with serving(redis_url, tmp_path, roles=["selector"]) as stack:
        answer = await stack.edit(path="/v1/plan", instruction="lowlight")
    assert answer.status_code == 200, answer.text
    assert [task["plugin"] for task in answer.json()["plan"]["tasks"]] == ["lowlight"]
    assert answer.json()["plan"]["threshold"] == 0.5


async def test_respond_async_answers_with_a_job_to_follow(stack: Stack) -> None:
    answer = await stack.edit(instruction="derain", headers={"Prefer": "respond-async"})
    assert answer.status_code == 202
    assert answer.json()["status"] == "queued"
    location = answer.headers["location"]
    await until(stack.queue, answer.json()["id"], lambda job: job.status.is_final)
    job, result = await stack.client.get(location), await stack.client.get(location + "/result")
    assert job.json()["status"] == "succeeded"
    np.testing.assert_array_equal(pixels_of(result.content), 255 - pixels_of(photo()))
    assert result.headers["x-seed"] == str(job.json()["request"]["seed"])


async def test_result_of_a_running_job_is_a_conflict(stack: Stack) -> None:
    accepted = await stack.edit(instruction="derain hold", headers={"Prefer": "respond-async"})
    answer = await stack.client.get(accepted.headers["location"] + "/result")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_not_finished")


async def test_result_of_a_plan_does_not_exist(stack: Stack) -> None:
    planned = await stack.edit(path="/v1/plan", instruction="derain")
    answer = await stack.client.get(f"/v1/edits/{planned.json()['id']}/result")
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


async def test_canceled_job_ends_and_has_no_result(stack: Stack) -> None:
    accepted = await stack.edit(instruction="derain hold", headers={"Prefer": "respond-async"})
    location = accepted.headers["location"]
    canceled = await stack.client.post(location + "/cancel")
    assert (canceled.status_code, canceled.json()["status"]) == (200, "canceled")
    answer = await stack.client.get(location + "/result")
    assert (answer.status_code, answer.json()["code"]) == (499, "canceled")


async def test_failed_job_answers_with_its_error(stack: Stack) -> None:
    answer = await stack.edit(instruction="derain break")
    assert (answer.status_code, answer.json()["code"]) == (500, "edit_failed")
    assert answer.json()["detail"] == "the engine broke"


async def test_passed_deadline_answers_504_and_ends_the_job(stack: Stack) -> None:
    answer = await stack.edit(instruction="derain hold", timeout=0.3)
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
    job_id = (await stack.queue.redis.keys(f"{stack.settings.key_prefix}:job:*"))[0].decode()
    job = await stack.queue.get(job_id.rsplit(":", 1)[-1])
    assert job.status is JobStatus.EXPIRED


async def test_client_that_goes_away_cancels_its_job(stack: Stack) -> None:
    async with listening(stack.app) as url, httpx.AsyncClient(trust_env=False) as client:
        files = {"image": photo()}
        data = {"instruction": "derain hold"}
        request = asyncio.create_task(client.post(f"{url}/v1/edit", data=data, files=files))
        async with asyncio.timeout(5):
            while not (keys := await stack.queue.redis.keys(f"{stack.settings.key_prefix}:job:*")):
                await asyncio.sleep(0.01)
        request.cancel()
        job_id = keys[0].decode().rsplit(":", 1)[-1]
        job = await until(stack.queue, job_id, lambda job: job.status.is_final)
    assert job.status is JobStatus.CANCELED


async def test_a_request_sent_twice_with_one_key_is_one_job(stack: Stack) -> None:
    headers = {"Idempotency-Key": "photo 7, take 1"}
    first, again = [await stack.edit(instruction="derain", headers=headers) for _ in range(2)]
    assert first.status_code == again.status_code == 200
    assert first.headers["x-job-id"] == again.headers["x-job-id"]
    assert first.headers["x-seed"] == again.headers["x-seed"]
    assert first.content == again.content
    other = await stack.edit(instruction="derain")
    assert other.headers["x-job-id"] != first.headers["x-job-id"]


@pytest.mark.parametrize(
    "change", [{"steps": 3}, {"instruction": "lowlight"}, {"image": photo(40, 40)}]
)
async def test_one_key_for_another_request_is_refused(stack: Stack, change: dict[str, Any]) -> None:
    headers = {"Idempotency-Key": "key"}
    await stack.edit(instruction="derain", headers=headers)
    answer = await stack.edit(**{"instruction": "derain", "headers": headers, **change})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "was sent before with another request" in answer.json()["detail"]


@pytest.mark.parametrize("key", [" ", "x" * 256])
async def test_a_key_that_is_none_is_refused(stack: Stack, key: str) -> None:
    answer = await stack.edit(instruction="derain", headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_client_that_goes_away_with_a_key_finds_its_job_again(stack: Stack) -> None:
    headers = {"Idempotency-Key": "key"}
    fields = {"instruction": "derain hold"}
    async with listening(stack.app) as url, httpx.AsyncClient(trust_env=False) as client:
        files = {"image": photo()}
        request = client.post(f"{url}/v1/edit", data=fields, files=files, headers=headers)
        task = asyncio.create_task(request)
        pattern = f"{stack.settings.key_prefix}:job:*"
        async with asyncio.timeout(5):
            while not (keys := await stack.queue.redis.keys(pattern)):
                await asyncio.sleep(0.01)
        task.cancel()
        job_id = keys[0].decode().rsplit(":", 1)[-1]
        await until(stack.queue, job_id, lambda job: job.status is JobStatus.RUNNING)
        again = await stack.edit(**fields, headers={**headers, "Prefer": "respond-async"})
    assert (again.status_code, again.json()["id"]) == (202, job_id)
    assert not (await stack.queue.get(job_id)).status.is_final


async def test_priority_reaches_the_job(stack: Stack) -> None:
    answer = await stack.edit(
        instruction="derain", priority="low", headers={"Prefer": "respond-async"}
    )
    assert answer.json()["request"]["priority"] == "low"
    refused = await stack.edit(instruction="derain", priority="urgent")
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert "'high', 'normal' or 'low'" in refused.json()["detail"]


async def test_plugins_are_listed_with_their_licence(stack: Stack) -> None:
    body = (await stack.client.get("/v1/plugins")).json()
    assert body["base"] == "nano"
    assert [plugin["name"] for plugin in body["plugins"]] == ["derain", "lowlight"]
    assert {plugin["licence"] for plugin in body["plugins"]} == {"Apache-2.0"}
