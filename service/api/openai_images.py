"""The routes of OpenAI's image API that fit: POST /v1/images/edits and GET /v1/models."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Literal, Self

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.api.events import HEADERS, MEDIA_TYPE, keep_alive
from service.api.forms import read_parts
from service.api.intake import Intake, invalid
from service.api.openai_errors import openai_error
from service.api.routes import finish_unless_gone, form_of
from service.api.schemas import EditFields, explain
from service.errors import DiffPluginError, InvalidRequest
from service.images import OutputFormat, upright_size
from service.jobs import Job

MAX_N = 10
NOT_YET = "is not supported yet; leave it out"

router = APIRouter()


class ImageEdit(BaseModel):
    """Fields of POST /v1/images/edits; what would have to be ignored is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(description="What to do, e.g. remove the rain.")
    model: str | None = Field(None, description="The base, or a plugin to run instead of a plan.")
    n: int = Field(1, ge=1, le=MAX_N)
    size: str = Field("auto", pattern=r"^(auto|\d+x\d+)$", description="auto or the image's own.")
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: OutputFormat = "png"
    quality: Literal["auto"] = "auto"
    background: Literal["auto", "opaque"] = "auto"
    stream: bool = False
    partial_images: int = Field(0, ge=0, le=3)

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        if "mask" in values:
            raise invalid("mask", f"mask {NOT_YET}")
        try:
            fields = cls.model_validate(values)
        except ValidationError as error:
            wrong = explain(error, cls)
            raise InvalidRequest("; ".join(wrong.values()), wrong) from error
        if fields.partial_images:
            raise invalid("partial_images", f"partial_images above 0 {NOT_YET}")
        if fields.stream and fields.response_format == "url":
            raise invalid("response_format", "a stream has images as b64_json; ask for that")
        return fields


@router.post("/v1/images/edits", openapi_extra=form_of(ImageEdit))
async def edit_image(request: Request) -> Response:
    """OpenAI's image edit: `prompt` is the instruction; n edits differ in their seed."""
    intake: Intake = request.app.state.intake
    files, values = await read_parts(request, ("image", "image[]"))
    image, asked = files.image, ImageEdit.parse(values)
    fields = await _edit_fields(request, asked)
    jobs = [await intake.submit_edit(image, fields)]
    # The first has shown that the image can be read.
    if asked.size not in ("auto", _size(image)):
        await intake.queue.cancel(jobs[0].id)
        raise invalid("size", f"size may be auto or {_size(image)}, that of the image")
    try:
        for _ in range(asked.n - 1):
            jobs.append(await intake.submit_edit(image, fields))
    except DiffPluginError:
        await _cancel(intake, jobs)
        raise
    if asked.stream:
        texts = keep_alive(_completed_events(intake, jobs, asked))
        return StreamingResponse(texts, media_type=MEDIA_TYPE, headers=HEADERS)
    return JSONResponse(await _answer(request, intake, jobs, asked))


@router.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    """The base, and each plugin as a model of its own."""
    base: str = request.app.state.base
    intake: Intake = request.app.state.intake
    names = (await intake.plugins()).keys()
    return {"object": "list", "data": [_model(base), *(_model(name, base) for name in names)]}


async def _edit_fields(request: Request, asked: ImageEdit) -> EditFields:
    base: str = request.app.state.base
    plugins = None if asked.model in (None, base) else [asked.model]
    values = {"instruction": asked.prompt, "plugins": plugins}
    return EditFields.parse({**values, "output_format": asked.output_format})


async def _answer(
    request: Request, intake: Intake, jobs: list[Job], asked: ImageEdit
) -> dict[str, Any]:
    data, size = [], ""
    for job in jobs:
        image = await _result(intake, finish_unless_gone(request, intake, job), jobs)
        size = _size(image)
        if asked.response_format == "url":
            data.append({"url": str(request.url_for("get_result", job_id=job.id))})
        else:
            data.append({"b64_json": base64.b64encode(image).decode()})
    look = {"size": size, "quality": "auto", "background": "opaque"}
    return {"created": int(time.time()), "data": data, "output_format": asked.output_format, **look}


async def _completed_events(
    intake: Intake, jobs: list[Job], asked: ImageEdit
) -> AsyncIterator[str]:
    """One event for each image; an error ends the stream."""
    try:
        for job in jobs:
            image = await _result(intake, intake.finish(job), jobs)
            event = {
                "type": "image_edit.completed",
                "b64_json": base64.b64encode(image).decode(),
                "created_at": int(time.time()),
                "size": _size(image),
                "quality": "auto",
                "background": "opaque",
                "output_format": asked.output_format,
                "usage": USAGE,
            }
            yield _event("image_edit.completed", event)
    except DiffPluginError as error:
        yield _event("error", openai_error(error))


# Nothing is counted in tokens here, and the clients' type wants it.
USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


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


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def _size(image: bytes) -> str:
    width, height = upright_size(image)
    return f"{width}x{height}"


def _model(name: str, parent: str | None = None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "diffplugin",
        "parent": parent,
        "root": name,
    }
