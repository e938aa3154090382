"""Motion and defocus blur, uniform or varying over the frame, with sensor noise.

Motion follows a camera path during exposure (Boracchi and Foi 2012; GoPro, Nah et al. 2017);
defocus is a disc (circle of confusion) whose radius may change across the photo.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from service.training.degradations.fields import disc_kernel, line_kernel, smooth_field

Image = NDArray[np.float32]


def motion_or_defocus_blur(clean: Image, rng: np.random.Generator, scale: float = 1.0) -> Image:
    """Blur with one kernel, or blend two kernels of different strength over a smooth mask."""
    strong = _blur(clean, rng, scale)
    if rng.random() < 0.3:
        height, width = clean.shape[:2]
        mask = smooth_field(height, width, rng, scale)[..., None]
        strong = strong * mask + _blur(clean, rng, 0.6 * scale) * (1 - mask)
    noise = rng.normal(0.0, rng.uniform(0.0, 0.006), clean.shape)
    return (strong + noise).astype(np.float32)


def _blur(clean: Image, rng: np.random.Generator, scale: float) -> Image:
    kind = rng.random()
    if kind < 0.45:
        kernel = line_kernel(rng.uniform(6.0, 18.0) * scale, rng.uniform(0, 180), 0.4)
    elif kind < 0.8:
        kernel = _shake_kernel(rng, rng.uniform(7.0, 18.0) * scale)
    else:
        kernel = disc_kernel(rng.uniform(1.5, 4.2) * scale)
    blurred = cv2.filter2D(clean, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(blurred, np.float32)


def _shake_kernel(rng: np.random.Generator, extent: float) -> NDArray[np.float32]:
    """Unit-sum kernel of a smooth random camera path that spans `extent` pixels."""
    velocity = np.cumsum(rng.normal(0.0, 1.0, (64, 2)), axis=0) + rng.normal(0.0, 4.0, 2)
    path = np.cumsum(velocity, axis=0)
    path = (path - path.mean(0)) * (extent / max(float(np.ptp(path, axis=0).max()), 1e-6))
    radius = int(np.ceil(extent / 2)) + 2
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    cells = np.clip(np.round(path).astype(int) + radius, 0, 2 * radius)
    np.add.at(kernel, (cells[:, 1], cells[:, 0]), 1.0)
    soft = cv2.GaussianBlur(kernel, (0, 0), 0.5)
    return np.asarray(soft / soft.sum(), np.float32)
