"""What the OpenAPI document says of bodies: the same fields as a form and as JSON."""

from typing import Any

from pydantic import BaseModel

IMAGE = "PNG, JPEG, WebP, AVIF, TIFF or BMP."
MASK = "Of the image's size: white is edited, black stays."


def body_of(fields: type[BaseModel], has_mask: bool = True) -> dict[str, Any]:
    """OpenAPI of a request that bodies.read_body reads."""
    content = {
        "multipart/form-data": {"schema": form_schema(fields, has_mask)},
        "application/json": {"schema": json_schema(fields, has_mask)},
    }
    return {"requestBody": {"required": True, "content": content}}


def form_of(fields: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI of a request that takes a form alone."""
    content = {"multipart/form-data": {"schema": form_schema(fields, has_mask=True)}}
    return {"requestBody": {"required": True, "content": content}}


def form_schema(fields: type[BaseModel], has_mask: bool) -> dict[str, Any]:
    return _schema(fields, has_mask, {"type": "string", "format": "binary"})


def json_schema(fields: type[BaseModel], has_mask: bool) -> dict[str, Any]:
    return _schema(fields, has_mask, {"type": "string", "contentEncoding": "base64"})


def _schema(fields: type[BaseModel], has_mask: bool, file: dict[str, Any]) -> dict[str, Any]:
    schema = fields.model_json_schema()
    files = {"image": {**file, "description": IMAGE}}
    if has_mask:
        files["mask"] = {**file, "description": MASK}
    schema["properties"] = {**files, **schema["properties"]}
    schema["required"] = ["image", *schema.get("required", [])]
    return schema
