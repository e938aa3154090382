"""The routes of OpenAI's image API that fit: POST /v1/images/edits and GET /v1/models."""

import asyncio
import base64
import time
from collections.abc import Coroutine
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from service.api.events import HEADERS, MEDIA_TYPE, keep_alive
from service.api.forms import read_parts
from service.api.intake import Intake, invalid
from service.api.openai_fields import ImageEdit
from service.api.openai_stream import size_of, stream_events
from service.api.openapi import openai_form_of
from service.api.routes import finish_unless_gone
from service.errors import DiffPluginError
from service.jobs import Job

router = APIRouter()


@router.post(
    "/v1/images/edits",
    responses={200: {"content": {MEDIA_TYPE: {}}}},  # with `stream`
    openapi_extra=openai_form_of(ImageEdit),
)
async def edit_image(request: Request) -> Response:
    """OpenAI's image edit: `prompt` is the instruction; n edits differ in their seed."""
    intake: Intake = request.app.state.intake
    files, values = await read_parts(request, ("image", "image[]"), "mask")
    image, asked = files.image, ImageEdit.parse(values)
    fields = asked.edit_fields(request.app.state.base)
    mask = await asyncio.to_thread(intake.mask_of_alpha, files.mask) if files.mask else b""
    jobs = [await intake.submit_edit(image, fields, mask)]
    # The first has shown that the image can be read.
    if asked.size not in ("auto", size_of(image)):
        await intake.queue.cancel(jobs[0].id)
        raise invalid("size", f"size may be auto or {size_of(image)}, that of the image")
    try:
        for _ in range(asked.n - 1):
            jobs.append(await intake.submit_edit(image, fields, mask))
    except DiffPluginError:
        await _cancel(intake, jobs)
        raise
    if asked.stream:
        texts = keep_alive(stream_events(intake, jobs, asked.output_format))
        return StreamingResponse(texts, media_type=MEDIA_TYPE, headers=HEADERS)
    return JSONResponse(await _answer(request, intake, jobs, asked))


@router.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    """The base, and each plugin as a model of its own."""
    base: str = request.app.state.base
    intake: Intake = request.app.state.intake
    names = (await intake.plugins()).keys()
    return {"object": "list", "data": [_model(base), *(_model(name, base) for name in names)]}


async def _answer(
    request: Request, intake: Intake, jobs: list[Job], asked: ImageEdit
) -> dict[str, Any]:
    data, size = [], ""
    for job in jobs:
        image = await _result(intake, finish_unless_gone(request, intake, job), jobs)
        size = size_of(image)
        if asked.response_format == "url":
            data.append({"url": str(request.url_for("get_result", job_id=job.id))})
        else:
            data.append({"b64_json": base64.b64encode(image).decode()})
    look = {"size": size, "quality": "auto", "background": "opaque"}
    return {"created": int(time.time()), "data": data, "output_format": asked.output_format, **look}


async def _result(intake: Intake, finish: Coroutine[Any, Any, Job], jobs: list[Job]) -> bytes:
    """Image of the finished job; all of them are canceled if it fails or the caller goes away."""
    # A task of its own: redis-py on Python 3.11 may swallow a cancellation.
    finishing = asyncio.create_task(finish)
    try:
        await asyncio.wait({finishing})
        image, _ = await intake.result_of(finishing.result())
        return image
    except (DiffPluginError, asyncio.CancelledError):
        finishing.cancel()
        await _cancel(intake, jobs)
        raise


async def _cancel(intake: Intake, jobs: list[Job]) -> None:
    await asyncio.gather(*(intake.queue.cancel(job.id) for job in jobs))


def _model(name: str, parent: str | None = None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "diffplugin",
        "parent": parent,
        "root": name,
    }
