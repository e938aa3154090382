"""What a camera sensor does to a scene: too few photons, and aliasing against a display.

Low light: linear exposure, Poisson-Gaussian noise (Foi et al. 2008), back to sRGB.
Moire: LCD sub-pixels seen through a Bayer mosaic (the pipeline of LCDMoire, Yuan et al. 2019).
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]


def low_light(clean: Image, rng: np.random.Generator, scale: float = 1.0) -> Image:
    """Expose 2.3 to 4.8 stops too short; shot and read noise; a slight white-balance error."""
    return short_exposure(clean, rng, (2.3, 4.8), shot=(0.0, 0.0006), read=(0.0003, 0.0025))


def short_exposure(
    clean: Image,
    rng: np.random.Generator,
    stops: tuple[float, float],
    shot: tuple[float, float],
    read: tuple[float, float],
) -> Image:
    """Ranges: stops of light that are missing; variance per signal; deviation of the read-out."""
    linear = clean**2.2 * 2.0 ** -rng.uniform(*stops)
    linear = linear * (1.0 + rng.normal(0.0, 0.03, 3))
    variance_per_signal, deviation = rng.uniform(*shot), rng.uniform(*read)
    noise = rng.standard_normal(clean.shape, dtype=np.float32)
    noisy = linear + noise * np.sqrt(variance_per_signal * linear + deviation**2)
    return np.asarray(np.clip(noisy, 0.0, 1.0) ** (1 / 2.2), np.float32)


def high_iso_noise(clean: Image, rng: np.random.Generator, scale: float = 1.0) -> Image:
    """A short exposure pushed back to full brightness: shot and read noise times the gain."""
    gain = 2.0 ** rng.uniform(2.0, 4.5)
    linear = clean**2.2 / gain
    shot = rng.uniform(0.0, 0.0006)
    read = rng.uniform(0.0003, 0.0025)
    noise = rng.standard_normal(clean.shape, dtype=np.float32)
    seen = np.clip(linear + noise * np.sqrt(shot * linear + read**2), 0.0, 1.0)
    # The dark picture was 8 bits once, as a user's is.
    seen = (np.round(seen ** (1 / 2.2) * 255.0) / 255.0) ** 2.2
    return np.asarray(np.clip(seen * gain, 0.0, 1.0) ** (1 / 2.2), np.float32)


def moire(clean: Image, rng: np.random.Generator, scale: float = 1.0) -> Image:
    """Photograph a display: RGB stripes, a slightly turned Bayer sensor, demosaicing, warp back."""
    border = 12
    padded = cv2.copyMakeBorder(clean, border, border, border, border, cv2.BORDER_REFLECT_101)
    height, width = padded.shape[:2]
    display = cv2.resize(padded, (3 * width, 3 * height), interpolation=cv2.INTER_NEAREST)
    display = display * _stripe_mask(3 * height, 3 * width, rng.uniform(0.75, 1.0))
    display = cv2.GaussianBlur(display, (0, 0), rng.uniform(0.48, 0.78))
    to_sensor = _random_view(width, height, rng)
    size = (width * 3 // 2, height * 3 // 2)
    sensor = cv2.warpPerspective(display, to_sensor, size, flags=cv2.INTER_LINEAR)
    seen = _demosaic(np.asarray(sensor, np.float32))
    back = cv2.warpPerspective(
        seen, to_sensor, (3 * width, 3 * height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    shot = cv2.resize(back, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(shot[border:-border, border:-border] * rng.uniform(0.79, 1.0), np.float32)


def _stripe_mask(height: int, width: int, depth: float) -> Image:
    """Vertical R, G, B stripes and a dark row gap, normalised to mean 1 per channel."""
    mask = np.full((height, width, 3), 1.0 - depth, np.float32)
    for channel in range(3):
        mask[:, channel::3, channel] = 1.0
    mask[2::3] *= 0.6
    return np.asarray(mask / mask.mean(axis=(0, 1)), np.float32)


def _random_view(width: int, height: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Homography from the display grid (3x) to the sensor (1.5x): turn, zoom, slight tilt."""
    angle, zoom = np.deg2rad(rng.uniform(-6, 6)), 0.5 * rng.uniform(0.88, 0.99)
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    centre = np.array([1.5 * width, 1.5 * height])
    shift = np.array([0.75 * width, 0.75 * height]) - np.array([[cos, -sin], [sin, cos]]) @ centre
    tilt = rng.normal(0.0, 0.03, 2) / (3 * max(width, height))
    return np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]], [tilt[0], tilt[1], 1.0]])


def _demosaic(sensor: Image) -> Image:
    """Keep one colour per pixel (RGGB) and interpolate the others, as a camera does."""
    raw = np.empty(sensor.shape[:2], np.float32)
    raw[0::2, 0::2] = sensor[0::2, 0::2, 0]
    raw[0::2, 1::2] = sensor[0::2, 1::2, 1]
    raw[1::2, 0::2] = sensor[1::2, 0::2, 1]
    raw[1::2, 1::2] = sensor[1::2, 1::2, 2]
    counts = np.round(np.clip(raw, 0.0, 2.0) * 32767.0).astype(np.uint16)
    return cv2.cvtColor(counts, cv2.COLOR_BayerRGGB2RGB).astype(np.float32) / 32767.0
