"""Image files as Pillow sees them: which formats, how large, opened with care and saved."""

import io
import struct
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image, UnidentifiedImageError

from service.errors import ImageTooLarge, InvalidImage, InvalidRequest, UnsupportedImageType
from service.image_heic import MEDIA_TYPE as HEIC_MEDIA_TYPE
from service.image_heic import can_read_heic, is_heic, open_heic
from service.image_whole import check_whole

OutputFormat = Literal["png", "jpeg", "webp", "avif", "tiff"]

MEDIA_TYPES: dict[str, str] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "avif": "image/avif",
    "tiff": "image/tiff",
}
LOSSY = ("jpeg", "webp", "avif")  # those with a quality
DEFAULT_QUALITY = 95
MAX_SIDE = {"webp": 16383, "jpeg": 65500, "avif": 65536}
READABLE = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "TIFF")
# What Pillow raises on damaged files: its readers check little before they index and unpack.
DAMAGE = (
    OSError, SyntaxError, ValueError, KeyError, IndexError, TypeError, OverflowError, EOFError,
    AttributeError, ZeroDivisionError, RuntimeError, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class ImageLimits:
    """Largest file, largest and smallest picture that are read."""

    max_bytes: int
    max_pixels: int
    min_side: int


def open_checked(data: bytes, limits: ImageLimits) -> Image.Image:
    """The file's one picture, not yet decoded. Size is checked from the header.

    Raises InvalidImage, UnsupportedImageType or ImageTooLarge.
    """
    if not data:
        raise InvalidImage("the image file is empty (0 bytes)")
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(
            f"the image file has {len(data)} bytes; at most {limits.max_bytes} are accepted"
        )
    image = open_file(data)
    _check_size(image.width, image.height, limits)
    _check_single(image)
    check_whole(data)
    return image


def open_file(data: bytes) -> Image.Image:
    """Recognise a file by its content; its name and its declared type do not count."""
    is_known = is_heic(data)
    try:
        return open_heic(data) if is_known else Image.open(io.BytesIO(data), formats=READABLE)
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"the image has too many pixels: {error}") from error
    except (UnidentifiedImageError, *DAMAGE) as error:
        if is_known:
            raise InvalidImage(f"the HEIC image is damaged or truncated: {error}") from error
        names = ", ".join([*READABLE, *(["HEIC"] if can_read_heic() else [])])
        raise UnsupportedImageType(
            f"the file is not an image that can be read; send one of {names}"
        ) from error


def media_type(data: bytes) -> str:
    """Media type of a readable image file."""
    return HEIC_MEDIA_TYPE if is_heic(data) else Image.MIME[format_of(open_file(data))]


def format_of(image: Image.Image) -> str:
    """Phones append a gain map to their JPEGs; Pillow calls such a file MPO, and HEIC HEIF."""
    name = image.format or ""
    return {"MPO": "JPEG", "HEIF": "HEIC"}.get(name, name)


def check_output(width: int, height: int, output_format: OutputFormat) -> None:
    """InvalidRequest if a picture of that size cannot be written in that format."""
    max_side = MAX_SIDE.get(output_format, 2**31)
    if max(width, height) > max_side:
        raise InvalidRequest(
            f"{output_format} holds at most {max_side} pixels a side and the image has "
            f"{width}x{height}; ask for output_format png"
        )


def save(image: Image.Image, output_format: OutputFormat, quality: int, **options: Any) -> bytes:
    """PNG is packed fast: level 6 costs three times the time. TIFF is not packed at all, because
    Pillow writes EXIF into plain files only.
    """
    buffer = io.BytesIO()
    if output_format == "png":
        options["compress_level"] = 1
    elif output_format in LOSSY:
        options["quality"] = quality
    if output_format == "jpeg" and quality >= 90:
        options["subsampling"] = 0  # whoever asks for quality wants red edges sharp, too
    image.save(buffer, output_format.upper(), **options)
    return buffer.getvalue()


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        raise ImageTooLarge(
            f"the image has {width}x{height} pixels; at most {limits.max_pixels} are accepted"
        )
    if min(width, height) < limits.min_side:
        raise InvalidImage(
            f"the image has {width}x{height} pixels; each side must be at least {limits.min_side}"
        )


def _check_single(image: Image.Image) -> None:
    """An animation would come back as its first frame, so it is refused. Not so phones' files,
    which have one picture that counts.
    """
    try:
        num_frames = getattr(image, "n_frames", 1)
    except DAMAGE as error:
        raise InvalidImage(f"the {image.format} image is damaged: {error}") from error
    if num_frames > 1 and format_of(image) not in ("JPEG", "HEIC"):
        raise UnsupportedImageType(
            f"the {image.format} file has {num_frames} frames or pages; send them one by one"
        )
