"""A streamed upload -> the request that it is in parts. Sizes are checked before bytes are kept."""

from collections.abc import AsyncIterator

from service.errors import ImageTooLarge, InvalidRequest
from service.pb.diffplugin.v1 import edit_pb2 as pb


async def read_upload(
    parts: AsyncIterator[pb.UploadEditRequest], max_bytes: int
) -> pb.SubmitEditRequest:
    """The first part with its files put in; ImageTooLarge as soon as one has too many bytes."""
    request: pb.SubmitEditRequest | None = None
    files = {"image": bytearray(), "mask": bytearray()}
    async for part in parts:
        kind = part.WhichOneof("part")
        if (kind == "submit") != (request is None):
            raise InvalidRequest("send `submit` in the first message, and only there")
        if kind == "submit":
            request = part.submit
        elif kind in files:
            files[kind] += getattr(part, kind)
            if len(files[kind]) > max_bytes:
                raise ImageTooLarge(f"the {kind} file has more than {max_bytes} bytes")
        else:
            raise InvalidRequest("send `image` or `mask` after the first message")
    if request is None:
        raise InvalidRequest("the upload is empty; send `submit` first, then the image")
    if request.edit.image or request.edit.mask:
        raise InvalidRequest("send the image in parts of its own, not in `submit`")
    request.edit.image, request.edit.mask = bytes(files["image"]), bytes(files["mask"])
    return request
