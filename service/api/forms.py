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
    image, values = await read_parts(request, ("image",))
    return image, model.parse(values)


async def read_parts(
    request: Request, image_names: tuple[str, ...]
) -> tuple[bytes, dict[str, object]]:
    """The one image, under one of its names, and the values of the other fields."""
    if request.query_params:
        names = ", ".join(request.query_params)
        raise InvalidRequest(f"send {names} as form fields; this route takes no query parameters")
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise InvalidRequest("send multipart/form-data with an image file in the field 'image'")
    try:
        # A second file is read to be refused by its name.
        async with request.form(max_files=2, max_fields=64) as form:
            return await _read_image(form, image_names), _read_values(form, image_names)
    except HTTPException as error:
        raise InvalidRequest(f"the form cannot be read: {error.detail}") from error


async def _read_image(form: FormData, names: tuple[str, ...]) -> bytes:
    images = [image for name in names for image in form.getlist(name)]
    if not images:
        message = "field 'image' is missing; send the photo as a file part of that name"
        raise InvalidRequest(message, {"image": message})
    if len(images) > 1:
        message = f"{len(images)} images were sent; send one"
        raise InvalidRequest(message, {"image": message})
    image = images[0]
    if not isinstance(image, UploadFile):
        raise InvalidImage(
            "field 'image' is text; send it as a file part (curl: -F image=@photo.jpg)"
        )
    return await image.read()


def _read_values(form: FormData, image_names: tuple[str, ...]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name in form:
        if name in image_names:
            continue
        sent = form.getlist(name)
        if len(sent) > 1 and name != REPEATED:
            raise InvalidRequest(f"field {name!r} was sent {len(sent)} times; send it once")
        values[name] = sent if name == REPEATED else sent[0]
    return values
