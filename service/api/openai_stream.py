"""The stream of POST /v1/images/edits: partial images, completed ones, and what goes wrong."""

import asyncio
import base64
import io
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from PIL import Image

from service.api.intake import Intake, raise_for
from service.api.openai_errors import openai_error
from service.errors import DiffPluginError
from service.image_files import DEFAULT_QUALITY, OutputFormat, save
from service.images import upright_size
from service.jobs import Job, Preview

# Nothing is counted in tokens here, and the clients' type wants it.
USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


async def stream_events(
    intake: Intake, jobs: list[Job], output_format: OutputFormat
) -> AsyncIterator[str]:
    """The events of one job after the other; an error ends the stream.

    All jobs are canceled if one fails or the reader goes away.
    """
    # A task of its own: redis-py on Python 3.11 may swallow a cancellation.
    texts: asyncio.Queue[str | None] = asyncio.Queue()
    reading = asyncio.create_task(_read(intake, jobs, output_format, texts))
    is_complete = False
    try:
        while (text := await texts.get()) is not None:
            yield text
        await reading
        is_complete = True
    finally:
        if not is_complete:
            reading.cancel()
            await asyncio.gather(*(intake.queue.cancel(job.id) for job in jobs))


async def _read(
    intake: Intake, jobs: list[Job], output_format: OutputFormat, texts: "asyncio.Queue[str | None]"
) -> None:
    try:
        for job in jobs:
            await _read_job(intake, job, output_format, texts)
    except DiffPluginError as error:
        texts.put_nowait(_text("error", openai_error(error)))
        await asyncio.gather(*(intake.queue.cancel(job.id) for job in jobs))
    finally:
        texts.put_nowait(None)


async def _read_job(
    intake: Intake, job: Job, output_format: OutputFormat, texts: "asyncio.Queue[str | None]"
) -> None:
    num_shown = 0
    async for _, event in intake.queue.watch(job.id):
        if event.preview is None:
            continue
        file = await asyncio.to_thread(_preview_file, event.preview, output_format)
        partial = {**_look(file, output_format), "partial_image_index": num_shown}
        texts.put_nowait(_text("image_edit.partial_image", partial))
        num_shown += 1
    ended = await intake.queue.get(job.id)
    raise_for(ended)
    image, _ = await intake.result_of(ended)
    completed = {**_look(image, output_format), "usage": USAGE}
    texts.put_nowait(_text("image_edit.completed", completed))


def _look(image: bytes, output_format: OutputFormat) -> dict[str, Any]:
    return {
        "b64_json": base64.b64encode(image).decode(),
        "created_at": int(time.time()),
        "size": size_of(image),
        "quality": "auto",
        "background": "opaque",
        "output_format": output_format,
    }


def _preview_file(preview: Preview, output_format: OutputFormat) -> bytes:
    """The preview as the format that the client writes into a file."""
    with Image.open(io.BytesIO(base64.b64decode(preview.base64))) as picture:
        return save(picture, output_format, DEFAULT_QUALITY)


def _text(name: str, data: dict[str, Any]) -> str:
    # Errors have no type of their own: OpenAI's clients look for the field `error`.
    body = data if name == "error" else {"type": name, **data}
    return f"event: {name}\ndata: {json.dumps(body)}\n\n"


def size_of(image: bytes) -> str:
    """As OpenAI writes it, e.g. 512x384."""
    width, height = upright_size(image)
    return f"{width}x{height}"
