"""Random fields and small kernels that several degradations are made of."""

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]


def smooth_field(
    height: int, width: int, rng: np.random.Generator, scale: float, octaves: int = 3
) -> Field:
    """1/f noise (height, width) scaled to [0, 1]; its coarsest cell spans about half a photo."""
    cell = 128.0 * scale
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        step = cell / 2**octave
        # A margin of two cells and a random offset make a crop a true window of a larger field.
        rows, cols = int(height / step) + 4, int(width / step) + 4
        noise = rng.random((rows, cols), dtype=np.float32)
        matrix = np.array([[1 / step, 0, 1 + rng.random()], [0, 1 / step, 1 + rng.random()]])
        sampled = cv2.warpAffine(
            noise, matrix, (width, height), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        )
        total += sampled * 0.5**octave
    return _stretch(total)


def line_kernel(length: float, angle_deg: float, width: float) -> Field:
    """Unit-sum kernel of a straight stroke: `length` and Gaussian `width` in pixels."""
    radius = int(np.ceil(length / 2 + 2 * width)) + 1
    ys, xs = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    theta = np.deg2rad(angle_deg)
    along = xs * np.cos(theta) + ys * np.sin(theta)
    across = -xs * np.sin(theta) + ys * np.cos(theta)
    outside = np.maximum(np.abs(along) - length / 2, 0.0)
    kernel = np.exp(-(across**2 + outside**2) / (2 * max(width, 0.35) ** 2))
    return np.asarray(kernel / kernel.sum(), np.float32)


def disc_kernel(radius: float) -> Field:
    """Unit-sum soft disc of `radius` pixels, the point spread of a lens out of focus."""
    half = int(np.ceil(radius)) + 1
    ys, xs = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    kernel = np.clip(radius + 0.5 - np.hypot(xs, ys), 0.0, 1.0)
    return np.asarray(kernel / kernel.sum(), np.float32)


def scatter(
    height: int, width: int, rng: np.random.Generator, density: float, kernel: Field
) -> Field:
    """Copies of `kernel`, peak 1, at random places (`density` per pixel) with random strength."""
    pad = kernel.shape[0] // 2  # copies whose centre lies outside still reach in
    points = rng.random((height + 2 * pad, width + 2 * pad), dtype=np.float32)
    points = np.where(points < density, 0.4 + 0.6 * points / density, 0.0).astype(np.float32)
    spread = cv2.filter2D(points, -1, kernel / kernel.max(), borderType=cv2.BORDER_CONSTANT)
    return np.clip(spread[pad : pad + height, pad : pad + width], 0.0, 1.0)


def _stretch(field: Field) -> Field:
    low, high = float(field.min()), float(field.max())
    return ((field - low) / max(high - low, 1e-6)).astype(np.float32)
