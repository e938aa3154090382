"""JPEG as files get it: once, or saved again after a crop that moved the grid of blocks.

Double compression with a shifted grid follows Jiang et al., "Towards Flexible Blind JPEG Artifacts
Removal" (FBCNN, ICCV 2021, section 3.3).
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]

BLOCK = 8


def jpeg_artifacts(clean: Image, rng: np.random.Generator, scale: float = 1.0) -> Image:
    """Quality 6 to 40; one photo in four was saved before, with its blocks elsewhere.

    Blocks have 8 px whatever the size of the photo, so `scale` changes nothing.
    """
    image = clean
    if rng.random() < 0.25:
        down, right = (int(offset) for offset in rng.integers(0, BLOCK, 2))
        padded = cv2.copyMakeBorder(image, down, 0, right, 0, cv2.BORDER_REFLECT_101)
        twice = jpeg(np.asarray(padded, np.float32), int(rng.integers(15, 60)))
        image = twice[down:, right:]
    return jpeg(image, int(rng.integers(6, 41)))


def jpeg(image: Image, quality: int) -> Image:
    """Encode and decode with libjpeg, chroma halved; `quality` in 1..100."""
    pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    _, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None, "what was just encoded can be decoded. This is a bug."
    return decoded[..., ::-1].astype(np.float32) / 255.0
