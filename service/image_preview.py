"""Previews: small pictures of what a result is going to be, as JPEG files."""

import io

import numpy as np
from PIL import Image

from service.image_mask import Weights
from service.images import Photo, UnitPixels

MAX_SIDE = 512
QUALITY = 85
MEDIA_TYPE = "image/jpeg"


def preview_of(
    photo: Photo, expected: UnitPixels, strength: float = 1.0, mask: Weights | None = None
) -> bytes:
    """JPEG of at most MAX_SIDE pixels a side: the photo with the change to `expected`."""
    weights = np.float32(strength) if mask is None else strength * mask[..., None]
    before = photo.unchanged
    pixels = np.rint((before + (expected - before) * weights).clip(0, 1) * 255)
    picture = Image.fromarray(pixels.astype(np.uint8))
    picture.thumbnail((MAX_SIDE, MAX_SIDE), reducing_gap=2.0)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
