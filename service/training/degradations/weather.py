"""Rain, snow and haze: layers between the scene and the lens.

Rain: streak layers over a veil (Li et al., "Heavy Rain Image Restoration", CVPR 2019, eq. 1).
Snow: flakes of several sizes, each an occluding layer (Liu et al., Snow100K, 2018, eq. 1).
Haze: atmospheric scattering I = J t + A (1 - t), t = exp(-beta d) (Koschmieder 1924; RESIDE,
Li et al. 2019).
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from service.training.degradations.fields import disc_kernel, line_kernel, scatter, smooth_field

Image = NDArray[np.float32]


def rain(clean: Image, rng: np.random.Generator, scale: float = 1.0) -> Image:
    """One to three streak layers from near (long, wide, few) to far, over a grey veil."""
    height, width = clean.shape[:2]
    angle = 90.0 + rng.normal(0.0, 15.0)
    light = rng.uniform(0.75, 1.0)
    veil = rng.uniform(0.0, 0.2) * (0.5 + 0.5 * smooth_field(height, width, rng, scale))
    image = clean * (1 - veil[..., None]) + light * veil[..., None]
    for depth in range(rng.integers(2, 4)):
        length = rng.uniform(12.0, 30.0) * scale * 0.75**depth
        kernel = line_kernel(
            length, angle + rng.normal(0.0, 3.0), rng.uniform(0.4, 0.9) * scale**0.5
        )
        density = rng.uniform(0.002, 0.005) / scale**1.5
        streaks = scatter(height, width, rng, density, kernel) * rng.uniform(0.45, 0.9)
        image = image + (light - image * 0.75) * streaks[..., None]
    return np.asarray(image, np.float32)


def snow(clean: Image, rng: np.random.Generator, scale: float = 1.0) -> Image:
    """Three layers of soft flakes, blurred along one fall direction, over a light veil."""
    height, width = clean.shape[:2]
    angle = 90.0 + rng.normal(0.0, 25.0)
    veil = rng.uniform(0.0, 0.22) * (0.6 + 0.4 * smooth_field(height, width, rng, scale))
    image = clean * (1 - veil[..., None]) + 0.95 * veil[..., None]
    for radius, density in ((0.9, 0.008), (1.8, 0.0027), (3.6, 0.0006)):
        radius = radius * rng.uniform(0.75, 1.3) * scale
        flake = cv2.GaussianBlur(np.pad(disc_kernel(radius), 2), (0, 0), 0.35 * radius + 0.3)
        motion = line_kernel(rng.uniform(0.0, 2.0) * radius, angle + rng.normal(0, 8), 0.4)
        kernel = cv2.filter2D(np.pad(flake, motion.shape[0] // 2), -1, motion)
        amount = density * rng.uniform(0.6, 1.6) / scale**2
        flakes = scatter(height, width, rng, amount, np.asarray(kernel, np.float32))
        flakes = flakes * rng.uniform(0.75, 1.0)
        image = image + (1.0 - image) * flakes[..., None]
    return np.asarray(image, np.float32)


def haze(clean: Image, rng: np.random.Generator, scale: float = 1.0) -> Image:
    """Scattering over a smooth depth: a ramp towards the horizon plus 1/f relief."""
    height, width = clean.shape[:2]
    ramp = np.linspace(rng.uniform(0.6, 1.2), rng.uniform(-0.2, 0.4), height, dtype=np.float32)
    relief = smooth_field(height, width, rng, scale)
    depth = 0.5 + 0.35 * ramp[:, None] + 0.35 * relief
    transmission = np.exp(-rng.uniform(0.6, 1.7) * depth)[..., None]
    airlight = rng.uniform(0.78, 0.98) + rng.normal(0.0, 0.012, 3)
    return np.asarray(clean * transmission + airlight * (1 - transmission), np.float32)
