"""The real openai package against the service: edits, streams, models, and errors."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

from service import errors
from service.api.catalogue import CATALOGUE
from service.api.openai_errors import openai_error
from service.images import decode
from service.jobs import JobStatus
from tests.api_stack import LIMITS, Stack, listening, photo, serving, until
from tests.test_images import file_of

RESTORED = 255 - decode(photo(), LIMITS)


@pytest.fixture
async def stack(redis_url: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with serving(redis_url, tmp_path) as stack:
        yield stack


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        listening(stack.app) as url,
        openai.DefaultAsyncHttpxClient(trust_env=False) as http,
        openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="unused", max_retries=0, http_client=http
        ) as client,
    ):
        yield client


def transparent(width: int, height: int) -> bytes:
    """A mask as OpenAI has it: its left half is to be edited."""
    pixels = np.full((height, width, 4), 255, np.uint8)
    pixels[:, : width // 2, 3] = 0
    return file_of(Image.fromarray(pixels), "PNG")


def pixels_of(b64: str | None) -> Any:
    return decode(base64.b64decode(b64 or ""), LIMITS)


async def jobs_of(stack: Stack) -> list[str]:
    keys = await stack.queue.redis.keys(f"{stack.settings.key_prefix}:job:*")
    return [key.decode().rsplit(":", 1)[-1] for key in keys]


async def test_edit_gives_the_restored_image(client: openai.AsyncOpenAI) -> None:
    answer = await client.images.edit(image=("a.png", photo()), prompt="derain", size="auto")
    [image] = answer.data or []
    np.testing.assert_array_equal(pixels_of(image.b64_json), RESTORED)
    assert (answer.size, answer.output_format) == ("48x32", "png")


async def test_n_edits_of_a_list_with_one_image(client: openai.AsyncOpenAI, stack: Stack) -> None:
    answer = await client.images.edit(
        image=[("a.png", photo())], prompt="derain", n=3, model="lowlight", output_format="webp"
    )
    assert len(answer.data or []) == 3
    jobs = [await stack.queue.get(job_id) for job_id in await jobs_of(stack)]
    assert len({job.request.seed for job in jobs}) == 3
    assert {job.request.plugins for job in jobs} == {("lowlight",)}
    assert {job.result_type for job in jobs} == {"image/webp"}


async def test_url_is_that_of_the_result(client: openai.AsyncOpenAI, stack: Stack) -> None:
    answer = await client.images.edit(
        image=("a.png", photo()), prompt="derain", response_format="url"
    )
    [image] = answer.data or []
    result = await stack.client.get(image.url or "")
    np.testing.assert_array_equal(decode(result.content, LIMITS), RESTORED)


async def test_stream_ends_with_the_completed_image(client: openai.AsyncOpenAI) -> None:
    stream = await client.images.edit(image=("a.png", photo()), prompt="derain", stream=True)
    [event] = [event async for event in stream]
    assert event.type == "image_edit.completed"
    np.testing.assert_array_equal(pixels_of(event.b64_json), RESTORED)
    assert event.size == "48x32"


async def test_partial_images_come_before_the_completed_one(client: openai.AsyncOpenAI) -> None:
    stream = await client.images.edit(
        image=("a.png", photo()),
        prompt="derain",
        stream=True,
        partial_images=2,
        output_format="webp",
    )
    events: list[Any] = [event async for event in stream]
    assert [event.type for event in events] == [
        "image_edit.partial_image",
        "image_edit.partial_image",
        "image_edit.completed",
    ]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    for event in events:
        assert event.output_format == "webp"
        assert base64.b64decode(event.b64_json)[8:12] == b"WEBP"
        shown = pixels_of(event.b64_json).astype(int)
        assert np.abs(shown - RESTORED).mean() < np.abs(shown - decode(photo(), LIMITS)).mean()


async def test_only_what_the_mask_has_transparent_is_edited(client: openai.AsyncOpenAI) -> None:
    answer = await client.images.edit(
        image=("a.png", photo()), prompt="derain", mask=("mask.png", transparent(48, 32))
    )
    [image] = answer.data or []
    result, before = pixels_of(image.b64_json), decode(photo(), LIMITS)
    np.testing.assert_array_equal(result[:, 24:], before[:, 24:])
    np.testing.assert_array_equal(result[:, :8], RESTORED[:, :8])


async def test_error_in_a_stream_is_raised(client: openai.AsyncOpenAI) -> None:
    stream = await client.images.edit(image=("a.png", photo()), prompt="derain break", stream=True)
    with pytest.raises(openai.APIError, match="the engine broke"):
        [event async for event in stream]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_client_that_hangs_up_cancels_its_jobs(
    client: openai.AsyncOpenAI, stack: Stack, is_stream: bool
) -> None:
    async def use() -> None:
        image = ("a.png", photo())
        kind: Any = {"stream": True} if is_stream else {}
        answer: Any = await client.images.edit(image=image, prompt="derain hold", n=2, **kind)
        async for _ in answer:
            pass

    using = asyncio.create_task(use())
    async with asyncio.timeout(5):
        while len(jobs := await jobs_of(stack)) < 2:
            await asyncio.sleep(0.01)
        # Only once the answer is waited for, or the stream has begun.
        for job_id in jobs:
            await until(stack.queue, job_id, lambda job: job.status is JobStatus.RUNNING)
    using.cancel()
    for job_id in jobs:
        job = await until(stack.queue, job_id, lambda job: job.status.is_final)
        assert job.status is JobStatus.CANCELED


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"size": "1024x1024"}, "size"),
        ({"mask": ("mask.png", photo())}, "mask"),  # it has no alpha
        ({"mask": ("mask.png", transparent(47, 32))}, "mask"),
        ({"partial_images": 2}, "partial_images"),
        ({"stream": True, "partial_images": 4}, "partial_images"),
        ({"quality": "high"}, "quality"),
        ({"background": "transparent"}, "background"),
        ({"input_fidelity": "high"}, "input_fidelity"),
        ({"output_compression": 50}, "output_compression"),
        ({"user": "me"}, "user"),
        ({"n": 11}, "n"),
        ({"model": "dall-e-2"}, "model"),
        ({"prompt": " "}, "prompt"),
        ({"image": [("a.png", photo()), ("b.png", photo())]}, "image"),
        ({"image": ("a.png", photo()[:1000])}, "image"),
    ],
)
async def test_what_is_not_served_is_refused_and_named(
    client: openai.AsyncOpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        await client.images.edit(**{"image": ("a.png", photo()), "prompt": "derain", **fields})
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert caught.value.message


async def test_size_of_the_image_itself_is_accepted(client: openai.AsyncOpenAI) -> None:
    size: Any = "48x32"
    answer = await client.images.edit(image=("a.png", photo()), prompt="derain", size=size)
    assert answer.size == "48x32"


async def test_models_are_the_base_and_its_plugins(client: openai.AsyncOpenAI) -> None:
    models = [model async for model in client.models.list()]
    assert [model.id for model in models] == ["nano", "derain", "lowlight"]
    assert all(model.object == "model" for model in models)


async def test_router_errors_have_the_shape_too(stack: Stack) -> None:
    answer = await stack.client.get("/v1/images/edits")
    assert answer.status_code == 405
    assert answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("kind", errors.leaves())
def test_every_error_has_the_shape(kind: type[errors.DiffPluginError]) -> None:
    error = openai_error(kind("no"))["error"]
    assert (error["message"], error["code"]) == ("no", kind.code)
    is_callers = CATALOGUE[kind].http < 500
    assert error["type"] == ("invalid_request_error" if is_callers else "server_error")
