"""The samples of an opened image at their full depth: upright, colour apart from alpha.

Pillow reads 16-bit colour as 8 bits. Its unpackers can be asked for the low bytes instead of the
high ones, so such a file is decoded twice and put together.
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from service.errors import UnsupportedImageType
from service.image_exif import orientation_of

Samples = NDArray[np.unsignedinteger[Any]]  # (H, W, C), 8 or 16 bits

LOW_BYTES = {"16B": "16L", "16L": "16B", "16N": "16B"}  # 16N is the machine's order: low first


def read_samples(data: bytes, image: Image.Image) -> Samples:
    """(H, W, C) of the file `data`, opened as `image`; C is 1 (grey), 2 (with alpha), 3 or 4."""
    rawmode = _rawmode(image)
    if rawmode == "LA;16B":
        samples = _read_grey_alpha_16(image)
    elif rawmode[-3:] in LOW_BYTES and rawmode.startswith("RGB"):
        samples = _read_colour_16(data, image)
    else:
        samples = _read_plain(image)
    if samples.dtype == np.uint16 and "transparency" in image.info:
        samples = _with_key(samples, image.info["transparency"])
    # Pillow turns TIFF itself while it decodes; it has no such bytes.
    exif = image.info.get("exif")
    orientation = orientation_of(exif) if isinstance(exif, bytes) else 1
    return np.ascontiguousarray(_turn(samples, orientation))


def max_of(samples: Samples) -> int:
    """The value of white."""
    return int(np.iinfo(samples.dtype).max)


def to_8_bits(samples: Samples) -> NDArray[np.uint8]:
    if samples.dtype == np.uint8:
        return samples.astype(np.uint8, copy=False)
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def to_depth(unit: NDArray[np.float32], max_value: int) -> Samples:
    """Integers of the values in [0, 1]."""
    dtype = np.uint8 if max_value == 255 else np.uint16
    return np.asarray(np.rint(np.clip(unit, 0, 1) * np.float32(max_value)), dtype)


def resized(samples: Samples, shape: tuple[int, int]) -> Samples:
    """With another height and width, bicubic."""
    planes = [
        Image.fromarray(samples[..., c].astype(np.float32)).resize(
            (shape[1], shape[0]), Image.Resampling.BICUBIC
        )
        for c in range(samples.shape[-1])
    ]
    values = np.dstack([np.asarray(plane) for plane in planes])
    return np.asarray(np.rint(values).clip(0, max_of(samples)), samples.dtype)


def _rawmode(image: Image.Image) -> str:
    """How Pillow unpacks the file's samples, e.g. RGB;16B; empty if it does not say."""
    tiles = getattr(image, "tile", [])
    arguments = tiles[0].args if tiles else ""
    mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return mode if isinstance(mode, str) else ""


def _read_plain(image: Image.Image) -> Samples:
    if image.mode.startswith("I;16"):
        image.load()
        return np.asarray(image).astype(np.uint16)[..., None]
    if image.mode in ("I", "F", "LAB", "HSV"):
        raise UnsupportedImageType(
            f"images of Pillow's mode {image.mode} are not read; send 8 or 16 bits a channel"
        )
    image.load()
    samples = np.asarray(image.convert(_plain_mode(image)))
    return np.atleast_3d(samples)


def _plain_mode(image: Image.Image) -> str:
    """The 8-bit mode that loses nothing of the image's."""
    is_grey = image.mode in ("1", "L", "LA", "La")
    has_alpha = "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    return ("LA" if has_alpha else "L") if is_grey else ("RGBA" if has_alpha else "RGB")


def _read_colour_16(data: bytes, image: Image.Image) -> Samples:
    assert isinstance(image, ImageFile.ImageFile)
    low_image = Image.open(io.BytesIO(data), formats=[image.format or ""])
    assert isinstance(low_image, ImageFile.ImageFile)
    low_image.tile = [tile._replace(args=_low_bytes(tile.args)) for tile in low_image.tile]
    high = np.asarray(image).astype(np.uint16)
    return np.asarray(high * 256 + np.asarray(low_image), np.uint16)


def _low_bytes(arguments: tuple[Any, ...] | str | None) -> tuple[Any, ...] | str:
    rawmode, *rest = arguments if isinstance(arguments, tuple) else (arguments,)
    swapped = f"{rawmode[:-3]}{LOW_BYTES[rawmode[-3:]]}"
    return (swapped, *rest) if isinstance(arguments, tuple) else swapped


def _read_grey_alpha_16(image: Image.Image) -> Samples:
    """Four bytes a pixel: for the PNG filters the same as 8-bit RGBA."""
    assert isinstance(image, ImageFile.ImageFile)
    image.tile = [tile._replace(args="RGBA") for tile in image.tile]
    bytes_ = np.asarray(image).astype(np.uint16)
    return np.asarray(bytes_[..., ::2] * 256 + bytes_[..., 1::2], np.uint16)


def _with_key(samples: Samples, key: int | tuple[int, ...]) -> Samples:
    """With alpha: a PNG may name one colour that is transparent. At 8 bits Pillow sees to it."""
    is_opaque = (samples != np.asarray(key)).any(-1, keepdims=True)
    return np.concatenate([samples, is_opaque * np.uint16(65535)], -1, dtype=np.uint16)


def _turn(samples: Samples, orientation: int) -> Samples:
    """Upright, by the EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples
