"""Damage to the picture itself: old prints, poor face copies, specular glare, lost colour.

Old prints follow the unstructured and structured defects of Wan et al., "Bringing Old Photos Back
to Life" (CVPR 2020); faces the blind chain blur, downsample, noise, JPEG of GFPGAN
(Wang et al. 2021).
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from service.training.degradations.compression import jpeg
from service.training.degradations.fields import disc_kernel, line_kernel, smooth_field

Image = NDArray[np.float32]
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def to_grey(clean: Image, rng: np.random.Generator, scale: float = 1.0) -> Image:
    """Grey copy with random channel weights, as different films see colours differently."""
    weights = LUMA * rng.uniform(0.75, 1.25, 3).astype(np.float32)
    grey = clean @ (weights / weights.sum())
    return np.repeat(grey[..., None], 3, axis=2).astype(np.float32)


def degrade_face(clean: Image, rng: np.random.Generator, scale: float = 1.0) -> Image:
    """y = JPEG(((x * k) downsampled by r) + n) upsampled by r (GFPGAN eq. 1)."""
    height, width = clean.shape[:2]
    if rng.random() < 0.7:
        blurred = cv2.GaussianBlur(clean, (0, 0), rng.uniform(0.8, 3.0) * scale)
    else:
        kernel = line_kernel(rng.uniform(3.0, 9.0) * scale, rng.uniform(0, 180), 0.5)
        blurred = cv2.filter2D(clean, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    factor = rng.uniform(2.0, 6.0) * scale
    small_size = (max(8, int(width / factor)), max(8, int(height / factor)))
    small = np.asarray(cv2.resize(blurred, small_size, interpolation=cv2.INTER_AREA), np.float32)
    small = small + rng.normal(0.0, rng.uniform(0.005, 0.05), small.shape).astype(np.float32)
    small = jpeg(small, int(rng.integers(35, 85)))
    large = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(large, np.float32)


def add_highlights(clean: Image, rng: np.random.Generator, scale: float = 1.0) -> Image:
    """Specular lobes: tilted Gaussians of one light colour, added and clipped by the sensor."""
    height, width = clean.shape[:2]
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    light = 1.0 + rng.normal(0.0, 0.04, 3)
    image = clean.copy()
    # Lobes are counted per 256-px photo, so a crop gets its share.
    share = height * width / (256.0 * scale) ** 2
    for _ in range(max(1, rng.poisson(rng.uniform(6, 14) * share))):
        x0, y0, theta = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0, np.pi)
        long = rng.uniform(7.0, 32.0) * scale
        short = long * rng.uniform(0.25, 0.9)
        dx, dy = xs - x0, ys - y0
        u = (dx * np.cos(theta) + dy * np.sin(theta)) / long
        v = (-dx * np.sin(theta) + dy * np.cos(theta)) / short
        lobe = np.exp(-0.5 * (u * u + v * v)) * rng.uniform(0.5, 1.0)
        image += lobe[..., None] * light * (0.35 + 0.65 * clean)
    return np.clip(image, 0.0, 1.0).astype(np.float32)


def age_photo(clean: Image, rng: np.random.Generator, scale: float = 1.0) -> tuple[Image, Image]:
    """An old print and what it was: a grey print is restored to grey, a colour print to colour."""
    target = to_grey(clean, rng) if rng.random() < 0.5 else clean
    image = _fade(target, rng)
    image = _stain(image, rng, scale)
    image = _scratch(image, rng, scale)
    if rng.random() < 0.5:
        blurred = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.9) * scale)
        image = np.asarray(blurred, np.float32)
    grain = rng.standard_normal(image.shape[:2], dtype=np.float32)[..., None]
    image = jpeg(image + grain * rng.uniform(0.015, 0.06), int(rng.integers(55, 92)))
    return image, target


def _fade(image: Image, rng: np.random.Generator) -> Image:
    """Lost contrast and the yellow of an aged base."""
    tint = np.array([1.0, rng.uniform(0.88, 0.98), rng.uniform(0.68, 0.9)], np.float32)
    faded = image * rng.uniform(0.5, 0.8) + rng.uniform(0.1, 0.26)
    return faded * (tint if rng.random() < 0.75 else 1.0)


def _stain(image: Image, rng: np.random.Generator, scale: float) -> Image:
    """Brown blotches with soft borders: the top of a smooth field."""
    height, width = image.shape[:2]
    field = smooth_field(height, width, rng, 0.6 * scale)
    mask = np.clip((field - rng.uniform(0.6, 0.95)) * 6.0, 0.0, 1.0)[..., None]
    colour = np.array([0.72, 0.58, 0.4], np.float32) * rng.uniform(0.7, 1.2)
    return np.asarray(image * (1 - 0.45 * mask) + colour * 0.45 * mask, np.float32)


def _scratch(image: Image, rng: np.random.Generator, scale: float) -> Image:
    """Bright and dark scratches (curved strokes) and dust, drawn with anti-aliasing."""
    height, width = image.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    share = max(height, width) / (256.0 * scale)
    for _ in range(rng.poisson(rng.uniform(2, 10) * share)):
        start = rng.uniform(0, 1, 2) * (width, height)
        heading = rng.normal(0.0, 1.0, 2)
        steps = np.cumsum(rng.normal(0.0, 0.15, (24, 2)) + heading / np.hypot(*heading), axis=0)
        points = start + steps * rng.uniform(1.0, 9.0) * scale
        thickness = max(1, int(round(rng.uniform(0.6, 1.6) * scale)))
        cv2.polylines(mask, [points.astype(np.int32)], False, 255, thickness, cv2.LINE_AA)
    dust = rng.random((height, width)) < rng.uniform(0.0, 0.0012)
    blobs = cv2.filter2D(dust.astype(np.float32), -1, disc_kernel(rng.uniform(0.7, 1.8) * scale))
    cover = np.clip(mask / 255.0 + blobs / max(float(blobs.max()), 1e-6), 0, 1)[..., None]
    tone = rng.uniform(0.75, 1.0) if rng.random() < 0.75 else rng.uniform(0.0, 0.2)
    return np.asarray(image * (1 - cover * 0.9) + tone * cover * 0.9, np.float32)
