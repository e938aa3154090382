"""Motion and defocus blur that vary over the frame, with sensor noise.

Camera shake turns and shifts the camera while the shutter is open, so the photo is the mean of the
views along the way, and corners smear more than the centre (Whyte et al., "Non-uniform Deblurring
for Shaken Images", IJCV 2012; the mean of frames is how GoPro was made, Nah et al., CVPR 2017).
Defocus is a disc (circle of confusion) whose radius follows the distance to the plane in focus, so
it changes with depth (Potmesil and Chakravarty 1981). An object that moves smears alone.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from service.training.degradations.fields import disc_kernel, line_kernel, smooth_field

Image = NDArray[np.float32]
Path = NDArray[np.float64]

VIEWS = 25  # along the camera's way: less than one pixel apart at scale 1
DISCS = 4  # radii between which a varying defocus is interpolated


def motion_or_defocus_blur(clean: Image, rng: np.random.Generator, scale: float = 1.0) -> Image:
    """Camera shake, defocus by depth, a moving object, or shake of an unfocused camera."""
    kind = rng.random()
    if kind < 0.6:
        image = _shake(clean, rng, rng.uniform(8.0, 20.0) * scale)
    elif kind < 0.78:
        image = _defocus(clean, rng, scale, rng.uniform(2.2, 4.6) * scale)
    elif kind < 0.92:
        image = _moving_object(clean, rng, scale)
    else:
        soft = _defocus(clean, rng, scale, rng.uniform(1.2, 2.5) * scale)
        image = _shake(soft, rng, rng.uniform(4.0, 10.0) * scale)
    noise = rng.normal(0.0, rng.uniform(0.0, 0.006), clean.shape)
    return (image + noise).astype(np.float32)


def _shake(clean: Image, rng: np.random.Generator, extent: float) -> Image:
    """Mean of the views along a camera path that spans `extent` pixels, turning as it goes."""
    height, width = clean.shape[:2]
    shift = _path(rng, 2, is_straight=rng.random() < 0.45) * extent
    # At the corner of the frame the turn adds up to half of the shift.
    turn = _path(rng, 1)[:, 0] * rng.uniform(0.0, 0.5) * extent / (0.5 * np.hypot(height, width))
    centre = rng.uniform(0.3, 0.7, 2) * (width, height)
    total = np.zeros_like(clean)
    for (dx, dy), angle in zip(shift, turn, strict=True):
        cos, sin = np.cos(angle), np.sin(angle)
        turned = np.array([[cos, -sin], [sin, cos]])
        offset = centre - turned @ centre + (dx, dy)
        total += cv2.warpAffine(
            clean,
            np.column_stack([turned, offset]),
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )
    return np.asarray(total / VIEWS, np.float32)


def _path(rng: np.random.Generator, axes: int, is_straight: bool = False) -> Path:
    """A smooth random way (VIEWS, axes) around 0 whose widest axis spans 1."""
    jitter = 0.0 if is_straight else 1.0
    steps = np.cumsum(rng.normal(0.0, jitter, (VIEWS, axes)), axis=0) + rng.normal(0.0, 3.0, axes)
    way = np.cumsum(steps, axis=0)
    way = way - way.mean(0)
    return np.asarray(way / max(float(np.ptp(way, axis=0).max()), 1e-6))


def _defocus(clean: Image, rng: np.random.Generator, scale: float, radius: float) -> Image:
    """Discs from a share of `radius` up to `radius`, as a smooth depth tells."""
    height, width = clean.shape[:2]
    nearest = rng.uniform(0.15, 1.0)
    place = smooth_field(height, width, rng, scale)[..., None] * (DISCS - 1)
    image = np.zeros_like(clean)
    for index, share in enumerate(np.linspace(nearest, 1.0, DISCS)):
        weight = np.clip(1.0 - np.abs(place - index), 0.0, 1.0)
        image += weight * _filtered(clean, disc_kernel(radius * share))
    return image


def _moving_object(clean: Image, rng: np.random.Generator, scale: float) -> Image:
    """A part of the frame smears along its way, the rest by a short camera movement only."""
    height, width = clean.shape[:2]
    angle = rng.uniform(0, 180)
    kernel = line_kernel(rng.uniform(9.0, 22.0) * scale, angle, 0.4)
    field = smooth_field(height, width, rng, scale)
    # What moves covers the background softly, along its own way.
    mask = _filtered(np.clip((field - rng.uniform(0.3, 0.5)) * 8.0, 0.0, 1.0), kernel)[..., None]
    still = _shake(clean, rng, rng.uniform(2.0, 8.0) * scale)
    return np.asarray(_filtered(clean, kernel) * mask + still * (1 - mask), np.float32)


def _filtered(image: Image, kernel: NDArray[np.float32]) -> Image:
    return np.asarray(
        cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101), np.float32
    )
