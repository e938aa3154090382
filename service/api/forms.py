"""A multipart/form-data request -> files and checked fields. It knows no limits but shape."""

from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request

from service.api.multipart import Part, parse_form
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
    parts = parse_form(await request.body(), request.headers["content-type"])
    return _files(parts, image_names, mask_name), _values(parts, (*image_names, mask_name))


def refuse_query(request: Request) -> None:
    """What would be ignored is refused."""
    if request.query_params:
        names = ", ".join(request.query_params)
        raise InvalidRequest(f"send {names} in the body; this route takes no query parameters")


def _files(parts: list[Part], image_names: tuple[str, ...], mask_name: str) -> Upload:
    image = _file(parts, image_names)
    if image is None:
        message = "field 'image' is missing; send the photo as a file part of that name"
        raise InvalidRequest(message, {"image": message})
    mask = _file(parts, (mask_name,))
    if mask == b"":
        message = "the mask file is empty (0 bytes); leave it out to edit everywhere"
        raise InvalidRequest(message, {mask_name: message})
    return Upload(image, mask or b"")


def _file(parts: list[Part], names: tuple[str, ...]) -> bytes | None:
    """The one file under one of these names; None if there is none."""
    files = [part for part in parts if part.name in names]
    if not files:
        return None
    name = names[0]
    if len(files) > 1:
        message = f"field {name!r} was sent {len(files)} times; send it once"
        raise InvalidRequest(message, {name: message})
    if not files[0].is_file:
        raise InvalidImage(
            f"field {name!r} is text; send it as a file part (curl: -F {name}=@photo.png)"
        )
    return files[0].content


def _values(parts: list[Part], file_names: tuple[str, ...]) -> dict[str, object]:
    sent: dict[str, list[str]] = {}
    for part in parts:
        if part.name in file_names:
            continue
        if part.is_file:
            message = f"field {part.name!r} is a file; send it as text"
            raise InvalidRequest(message, {part.name: message})
        sent.setdefault(part.name, []).append(part.text)
    for name, texts in sent.items():
        if len(texts) > 1 and name not in REPEATED:
            raise InvalidRequest(f"field {name!r} was sent {len(texts)} times; send it once")
    return {name: texts if name in REPEATED else texts[0] for name, texts in sent.items()}
