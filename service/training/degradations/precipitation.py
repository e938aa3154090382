"""Rain and snow that fall where a noise image says: what the generation tasks have to make.

Other noise is other weather: each drop or flake stands where the noise is lowest, so a network that
sees the noise can learn to draw it, and a seed names a shower. Angle and strength are fixed.
Drawing as in weather.py.
"""

from statistics import NormalDist

import cv2
import numpy as np
from numpy.typing import NDArray

from service.training.degradations.fields import Field, disc_kernel, line_kernel

Image = NDArray[np.float32]
# length, width in pixels, drops per pixel, strength: from near to far
RAIN_LAYERS = ((28.0, 0.9, 0.0015, 0.85), (18.0, 0.6, 0.0025, 0.65), (11.0, 0.45, 0.004, 0.45))
RAIN_ANGLE = 80.0
# radius in pixels, flakes per pixel, strength
SNOW_LAYERS = ((3.6, 0.0008, 0.95), (1.9, 0.003, 0.9), (0.9, 0.008, 0.8))


def falling_rain(clean: Image, noise: Image) -> Image:
    """Three layers of streaks over a thin veil; clean (H, W, 3) in [0, 1], noise white, alike."""
    light = 0.92
    image = clean * 0.95 + light * 0.05
    for channel, (length, width, density, strength) in enumerate(RAIN_LAYERS):
        kernel = line_kernel(length, RAIN_ANGLE, width)
        streaks = _drawn(noise[..., channel], density, kernel) * strength
        image = image + (light - image * 0.75) * streaks[..., None]
    return np.asarray(image, np.float32)


def falling_snow(clean: Image, noise: Image) -> Image:
    """Three layers of soft flakes over a thin veil; clean (H, W, 3) in [0, 1], noise white."""
    image = clean * 0.95 + 0.0475
    for channel, (radius, density, strength) in enumerate(SNOW_LAYERS):
        kernel = cv2.GaussianBlur(np.pad(disc_kernel(radius), 2), (0, 0), 0.35 * radius + 0.3)
        flakes = _drawn(noise[..., channel], density, np.asarray(kernel, np.float32)) * strength
        image = image + (1.0 - image) * flakes[..., None]
    return np.asarray(image, np.float32)


def _drawn(noise: Field, density: float, kernel: Field) -> Field:
    """`kernel`, peak 1, at the lowest `density` of the noise, stronger where it is lower."""
    depth = NormalDist().inv_cdf(density) - noise
    points = np.where(depth > 0, np.clip(0.45 + depth, 0, 1), 0).astype(np.float32)
    spread = cv2.filter2D(points, -1, kernel / kernel.max(), borderType=cv2.BORDER_CONSTANT)
    return np.clip(spread, 0.0, 1.0)
