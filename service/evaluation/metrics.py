"""Full-reference image quality. Images are float32 (H, W, 3), sRGB-encoded, in [0, 1]."""

import math
from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import structural_similarity

Image = NDArray[np.float32]

# An identical pair has infinite PSNR; in a mean it counts as this much.
MAX_PSNR_DB = 100.0
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
GMSD_T = 170 / 255**2  # the constant of the paper, for images in [0, 1]


def psnr(image: Image, truth: Image) -> float:
    """Peak signal-to-noise ratio in dB; infinite for identical images."""
    error = float(np.mean(np.square(image.astype(np.float64) - truth.astype(np.float64))))
    return math.inf if error == 0.0 else -10.0 * math.log10(error)


def ssim(image: Image, truth: Image) -> float:
    """Structural similarity with the Gaussian window of Wang et al. 2004, mean over channels."""
    value = structural_similarity(
        image,
        truth,
        data_range=1.0,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(value)


def gmsd(image: Image, truth: Image) -> float:
    """Gradient magnitude similarity deviation (Xue et al. 2014) of the lightness; 0 is best."""
    first, second = _gradient(image), _gradient(truth)
    similarity = (2 * first * second + GMSD_T) / (first**2 + second**2 + GMSD_T)
    return float(similarity.std())


def _gradient(image: Image) -> NDArray[np.float32]:
    """Prewitt magnitude of the lightness at half size, as the authors take it."""
    small = cv2.blur(image @ LUMA, (2, 2))[::2, ::2]
    across = np.repeat([[1 / 3, 0, -1 / 3]], 3, axis=0).astype(np.float32)
    return np.hypot(cv2.filter2D(small, -1, across), cv2.filter2D(small, -1, across.T))


def ciede2000(image: Image, truth: Image) -> float:
    """Mean colour difference; about 1 is just noticeable, lower is better."""
    return float(np.mean(deltaE_ciede2000(rgb2lab(image), rgb2lab(truth))))


def mean_psnr(values_db: Iterable[float]) -> float:
    """Mean over photos that stays finite when some are identical to their truth."""
    return float(np.mean([min(value, MAX_PSNR_DB) for value in values_db]))


def to_pixels(image: Image) -> NDArray[np.uint8]:
    """The 8-bit pixels of an image in [0, 1]."""
    return np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def to_image(pixels: NDArray[np.uint8]) -> Image:
    """The image in [0, 1] of 8-bit pixels."""
    return pixels.astype(np.float32) / np.float32(255.0)
