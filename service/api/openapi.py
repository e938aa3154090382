"""The OpenAPI document: bodies as forms and as JSON, every route's errors, keys, examples."""

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from service.api.openai_errors import is_openai
from service.api.problems import MEDIA_TYPE, Problem
from service.images import encode

Schema = dict[str, Any]

REF = "#/components/schemas/{model}"
IMAGE = "PNG, JPEG, WebP, AVIF, TIFF or BMP; HEIC where pillow-heif is installed."
MASK = "Of the image's size: white is edited, black stays."
OPENAI_MASK = "PNG of the image's size: what is transparent (alpha 0) is edited."
PREFER = "`respond-async`: answer at once with the job; `wait=10`: after ten seconds at the latest."
ONCE = "The same key with the same request is the same job; with another request it is refused."
OPENAI_ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"enum": ["invalid_request_error", "server_error"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}


def body_of(
    fields: type[BaseModel], has_mask: bool = True, example: Schema | None = None
) -> Schema:
    """OpenAPI of a request that bodies.read_body reads."""
    as_json: Schema = {"schema": _schema(fields, has_mask, is_form=False)}
    if example is not None:
        as_json["example"] = {"image": example_image(), **example}
    form = {"schema": _schema(fields, has_mask, is_form=True)}
    content = {"multipart/form-data": form, "application/json": as_json}
    return {"requestBody": {"required": True, "content": content}}


def openai_form_of(fields: type[BaseModel]) -> Schema:
    """OpenAPI of a request of OpenAI's clients."""
    schema = _schema(fields, has_mask=True, is_form=True)
    schema["properties"]["mask"]["description"] = OPENAI_MASK
    content = {"multipart/form-data": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


def headers_of(*, may_repeat: bool) -> Schema:
    """OpenAPI of the headers that an edit reads."""
    headers = {"Prefer": PREFER, **({"Idempotency-Key": ONCE} if may_repeat else {})}
    return {
        "parameters": [
            {"name": name, "in": "header", "schema": {"type": "string"}, "description": text}
            for name, text in headers.items()
        ]
    }


def image_or(answer: type[BaseModel]) -> dict[int | str, Schema]:
    """OpenAPI of an answer that is an image file, or JSON."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {200: {"model": answer, "content": {"image/*": binary}}}


def serve_openapi(app: FastAPI) -> None:
    """Make the app answer /openapi.json with what openapi_of() says."""

    def document() -> Schema:
        if app.openapi_schema is None:
            app.openapi_schema = openapi_of(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def openapi_of(app: FastAPI) -> Schema:
    """The document of the app's routes, with what FastAPI cannot know of them."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own; ours are problems
        schemas.pop(name, None)
    schemas["Problem"] = Problem.model_json_schema(ref_template=REF)
    schemas["OpenAIError"] = OPENAI_ERROR
    for path, operation in _operations(document):
        operation["responses"].pop("422", None)
        operation["responses"]["default"] = _error_answer(path)
        content = operation.get("requestBody", {}).get("content", {})
        for body in content.values():
            schemas.update(body["schema"].pop("$defs", {}))
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    document["security"] = [{}, {"bearer": []}, {"key": []}]  # {}: where no keys are asked for
    return document


def example_image() -> str:
    """Base64 of the smallest picture that is taken, a shaded square."""
    shade = np.linspace(40, 200, 16).astype(np.uint8)
    pixels = np.broadcast_to(shade[:, None, None], (16, 16, 3))
    return base64.b64encode(encode(np.ascontiguousarray(pixels), "png")).decode()


def _operations(document: Schema) -> Iterator[tuple[str, Schema]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


def _error_answer(path: str) -> Schema:
    name, media_type = ("Problem", MEDIA_TYPE)
    if is_openai(path):
        name, media_type = "OpenAIError", "application/json"
    schema = {"$ref": REF.format(model=name)}
    return {
        "description": "An error; docs/errors.md lists them.",
        "content": {media_type: {"schema": schema}},
    }


def _schema(fields: type[BaseModel], has_mask: bool, is_form: bool) -> Schema:
    schema = fields.model_json_schema(ref_template=REF)
    file: Schema = {"type": "string"}
    file |= {"format": "binary"} if is_form else {"contentEncoding": "base64"}
    files = {"image": {**file, "description": IMAGE}}
    if has_mask:
        files["mask"] = {**file, "description": MASK}
    schema["properties"] = {**files, **schema["properties"]}
    schema["required"] = ["image", *schema.get("required", [])]
    if is_form and "plan" in schema["properties"]:
        text = {"type": "string", "contentMediaType": "application/json"}
        description = schema["properties"]["plan"].get("description", "")
        schema["properties"]["plan"] = {**text, "description": f"{description} As JSON."}
    return schema
