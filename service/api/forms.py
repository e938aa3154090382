"""A multipart/form-data request -> files and checked fields. It knows no limits but shape."""

from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from service.api.schemas import Fields
from service.errors import InvalidImage, InvalidRequest

FieldsT = TypeVar("FieldsT", bound=Fields)

# The fields that may be sent more than once.
REPEATED = ("plugins", "webhook_events_filter")


@dataclass(frozen=True)
class Upload:
    """The files of a request; `mask` is empty if there is none."""

    image: bytes
    mask: bytes = b""


async def read_form(request: Request, model: type[FieldsT]) -> tuple[Upload, FieldsT]:
    """The file parts and every other field; InvalidRequest names what is wrong with them."""
    files, values = await read_parts(request, ("image",), "mask")
    return files, model.parse(values)


async def read_parts(
    request: Request, image_names: tuple[str, ...], mask_name: str = ""
) -> tuple[Upload, dict[str, object]]:
    """The one image, under one of its names, the mask, and the values of the other fields."""
    refuse_query(request)
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise InvalidRequest("send multipart/form-data with an image file in the field 'image'")
    try:
        # A third file is read to be refused by its name.
        async with request.form(max_files=3, max_fields=64) as form:
            files = await _read_files(form, image_names, mask_name)
            return files, _read_values(form, (*image_names, mask_name))
    except HTTPException as error:
        raise InvalidRequest(f"the form cannot be read: {error.detail}") from error


def refuse_query(request: Request) -> None:
    """What would be ignored is refused."""
    if request.query_params:
        names = ", ".join(request.query_params)
        raise InvalidRequest(f"send {names} in the body; this route takes no query parameters")


async def _read_files(form: FormData, image_names: tuple[str, ...], mask_name: str) -> Upload:
    image = await _read_file(form, image_names)
    if image is None:
        message = "field 'image' is missing; send the photo as a file part of that name"
        raise InvalidRequest(message, {"image": message})
    mask = await _read_file(form, (mask_name,))
    if mask == b"":
        message = "the mask file is empty (0 bytes); leave it out to edit everywhere"
        raise InvalidRequest(message, {mask_name: message})
    return Upload(image, mask or b"")


async def _read_file(form: FormData, names: tuple[str, ...]) -> bytes | None:
    """The one file under one of these names; None if there is none."""
    files = [file for name in names for file in form.getlist(name)]
    if not files:
        return None
    name = names[0]
    if len(files) > 1:
        message = f"field {name!r} was sent {len(files)} times; send it once"
        raise InvalidRequest(message, {name: message})
    if not isinstance(files[0], UploadFile):
        raise InvalidImage(
            f"field {name!r} is text; send it as a file part (curl: -F {name}=@photo.png)"
        )
    return await files[0].read()


def _read_values(form: FormData, file_names: tuple[str, ...]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name in form:
        if name in file_names:
            continue
        sent = form.getlist(name)
        if len(sent) > 1 and name not in REPEATED:
            raise InvalidRequest(f"field {name!r} was sent {len(sent)} times; send it once")
        values[name] = sent if name in REPEATED else sent[0]
    return values
