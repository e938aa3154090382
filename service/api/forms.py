"""A multipart/form-data request -> image bytes and checked fields. It knows no limits but shape."""

from typing import TypeVar

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from service.api.schemas import Fields
from service.errors import InvalidImage, InvalidRequest

FieldsT = TypeVar("FieldsT", bound=Fields)

# The only field that may be sent more than once.
REPEATED = "plugins"


async def read_form(request: Request, model: type[FieldsT]) -> tuple[bytes, FieldsT]:
    """The `image` part and every other field; InvalidRequest names what is wrong with them."""
    if request.query_params:
        names = ", ".join(request.query_params)
        raise InvalidRequest(f"send {names} as form fields; this route takes no query parameters")
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise InvalidRequest("send multipart/form-data with an image file in the field 'image'")
    try:
        async with request.form(max_files=1, max_fields=64) as form:
            return await _read_image(form), model.parse(_read_values(form))
    except HTTPException as error:
        raise InvalidRequest(f"the form cannot be read: {error.detail}") from error


async def _read_image(form: FormData) -> bytes:
    image = form.get("image")
    if image is None:
        raise InvalidRequest("field 'image' is missing; send the photo as a file part of that name")
    if not isinstance(image, UploadFile):
        raise InvalidImage(
            "field 'image' is text; send it as a file part (curl: -F image=@photo.jpg)"
        )
    return await image.read()


def _read_values(form: FormData) -> dict[str, object]:
    values: dict[str, object] = {}
    for name in form:
        if name == "image":
            continue
        sent = form.getlist(name)
        if len(sent) > 1 and name != REPEATED:
            raise InvalidRequest(f"field {name!r} was sent {len(sent)} times; send it once")
        values[name] = sent if name == REPEATED else sent[0]
    return values
