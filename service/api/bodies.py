"""The body of a request, a form or JSON with base64 -> files and checked fields."""

import asyncio
import base64
import binascii
from typing import Any

import pydantic_core
from fastapi import Request

from service.api.forms import FieldsT, Upload, read_form, refuse_query
from service.errors import InvalidImage, InvalidRequest

JSON_TYPE = "application/json"


async def read_body(request: Request, model: type[FieldsT]) -> tuple[Upload, FieldsT]:
    """Files and fields; InvalidRequest or InvalidImage names what is wrong with them."""
    refuse_query(request)
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == JSON_TYPE:
        # Tens of megabytes of base64 must not hold up the event loop.
        return await asyncio.to_thread(_parse_json, await request.body(), model)
    if content_type == "multipart/form-data":
        return await read_form(request, model)
    raise InvalidRequest(
        "send multipart/form-data with an image file in the field 'image', "
        "or application/json with base64 in it"
    )


def _parse_json(body: bytes, model: type[FieldsT]) -> tuple[Upload, FieldsT]:
    try:
        values = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise InvalidRequest("the body must be a JSON object")
    image, mask = values.pop("image", None), values.pop("mask", None)
    if image is None:
        message = "field 'image' is missing; send the photo as base64"
        raise InvalidRequest(message, {"image": message})
    files = Upload(_file("image", image), b"" if mask is None else _file("mask", mask))
    return files, model.parse(values, is_strict=True)


def _file(name: str, value: Any) -> bytes:
    """The file that `value` is the base64 of."""
    try:
        content = base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        message = f"field {name!r} is not base64, as RFC 4648 has it: {error}"
        raise InvalidRequest(message, {name: message}) from error
    if not content:
        raise InvalidImage(f"field {name!r} is empty (0 bytes)")
    return content
