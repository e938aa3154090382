"""Photos brought to a size that the models take well, and results brought back."""

import numpy as np
from PIL import Image

from service.images import Pixels, UnitPixels

MIN_SIDE = 32  # below, a network sees too little to normalise by
MAX_ENLARGED_SIDE = 1024  # a photo one pixel high and very wide is padded instead


def reduced(pixels: Pixels, max_pixels: int) -> Pixels:
    """The photo (H, W, 3) with at most about `max_pixels`, each the mean of those it covers."""
    height, width = pixels.shape[:2]
    factor = (max_pixels / (height * width)) ** 0.5
    return _resized(pixels, factor, Image.Resampling.BOX)


def enlarged(pixels: Pixels) -> Pixels:
    """The photo with sides of at least MIN_SIDE; itself, the same object, if it has them."""
    height, width = pixels.shape[:2]
    factor = min(MIN_SIDE / min(height, width), MAX_ENLARGED_SIDE / max(height, width))
    return pixels if factor <= 1 else _resized(pixels, factor, Image.Resampling.BICUBIC)


def brought_back(small: Pixels, large: Pixels, restored: UnitPixels) -> UnitPixels:
    """`small` with the change from `large`, which it was enlarged to, to `restored`.

    So what the models leave alone keeps its very pixels.
    """
    height, width = small.shape[:2]
    change = np.asarray(restored - large.astype(np.float32) / 255, np.float32)
    channels = [
        Image.fromarray(change[..., c]).resize((width, height), Image.Resampling.BOX)
        for c in range(3)
    ]
    result = small.astype(np.float32) / 255 + np.dstack([np.asarray(c) for c in channels])
    return np.asarray(result.clip(0, 1), np.float32)


def _resized(pixels: Pixels, factor: float, how: Image.Resampling) -> Pixels:
    height, width = pixels.shape[:2]
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(pixels).resize(size, how))
