"""A multipart/form-data request -> files and checked fields. It knows no limits but shape."""

from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from service.api.schemas import Fields
from service.errors import InvalidImage, InvalidRequest

FieldsT = TypeVar("FieldsT", bound=Fields)

# The only field that may be sent more than once.
REPEATED = "plugins"
FILES = ("image", "mask")


@dataclass(frozen=True)
class Upload:
    """The files of a request; `mask` is empty if there is none."""

    image: bytes
    mask: bytes = b""


async def read_form(request: Request, model: type[FieldsT]) -> tuple[Upload, FieldsT]:
    """The file parts and every other field; InvalidRequest names what is wrong with them."""
    if request.query_params:
        names = ", ".join(request.query_params)
        raise InvalidRequest(f"send {names} as form fields; this route takes no query parameters")
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise InvalidRequest("send multipart/form-data with an image file in the field 'image'")
    try:
        async with request.form(max_files=len(FILES), max_fields=64) as form:
            return await _read_files(form), model.parse(_read_values(form))
    except HTTPException as error:
        raise InvalidRequest(f"the form cannot be read: {error.detail}") from error


async def _read_files(form: FormData) -> Upload:
    if "image" not in form:
        raise InvalidRequest("field 'image' is missing; send the photo as a file part of that name")
    mask = b""
    if "mask" in form and not (mask := await _read_file(form, "mask")):
        raise InvalidRequest("the mask file is empty (0 bytes); leave it out to edit everywhere")
    return Upload(await _read_file(form, "image"), mask)


async def _read_file(form: FormData, name: str) -> bytes:
    files = form.getlist(name)
    if len(files) > 1:
        raise InvalidRequest(f"field {name!r} was sent {len(files)} times; send it once")
    if not isinstance(files[0], UploadFile):
        raise InvalidImage(
            f"field {name!r} is text; send it as a file part (curl: -F {name}=@photo.png)"
        )
    return await files[0].read()


def _read_values(form: FormData) -> dict[str, object]:
    values: dict[str, object] = {}
    for name in form:
        if name in FILES:
            continue
        sent = form.getlist(name)
        if len(sent) > 1 and name != REPEATED:
            raise InvalidRequest(f"field {name!r} was sent {len(sent)} times; send it once")
        values[name] = sent if name == REPEATED else sent[0]
    return values
