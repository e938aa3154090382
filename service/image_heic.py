"""HEIC files, which phones write: read by libheif, if the package pillow-heif is there.

It is the extra `heic` and not a dependency, because its wheels carry a GPL library, an encoder.
"""

import io
from importlib.util import find_spec

from PIL import Image

from service.errors import UnsupportedImageType

MEDIA_TYPE = "image/heic"
BRANDS = (b"heic", b"heix", b"heim", b"heis")  # stills in HEVC; films and sequences have others


def is_heic(data: bytes) -> bool:
    """By the brands of its first box, which may name a more general one first."""
    end = min(int.from_bytes(data[:4], "big"), 128)
    return data[4:8] == b"ftyp" and any(data[i : i + 4] in BRANDS for i in range(8, end, 4))


def can_read_heic() -> bool:
    return find_spec("pillow_heif") is not None


def open_heic(data: bytes) -> Image.Image:
    """Its primary picture, not yet decoded; raises one of DAMAGE if the file is damaged."""
    if not can_read_heic():
        raise UnsupportedImageType(
            "HEIC is not read here, because the package pillow-heif is not installed (the extra "
            "heic); send JPEG or PNG"
        )
    from pillow_heif.as_plugin import HeifImageFile  # it costs 0.15 s, and few send HEIC

    image: Image.Image = HeifImageFile(io.BytesIO(data))  # type: ignore[no-untyped-call]
    return image
