"""Two damages at once, as weather and cameras make them; each takes two plugins to undo.

What is far is changed first: air lies behind the rain or snow that falls near the lens (the order
of Li et al., "Heavy Rain Image Restoration", CVPR 2019, eq. 1, and of Snow100K, Liu et al. 2018).
A short exposure at high gain leaves a dark picture with much noise (Wei et al., "A Physics-based
Noise Formation Model for Extreme Low-light Raw Denoising", CVPR 2020).
"""

import numpy as np
from numpy.typing import NDArray

from service.training.degradations.sensor import short_exposure
from service.training.degradations.weather import haze, rain, snow

Image = NDArray[np.float32]


def rain_and_haze(clean: Image, rng: np.random.Generator, scale: float = 1.0) -> Image:
    """Rain in front of a hazy scene."""
    return rain(haze(clean, rng, scale), rng, scale)


def snow_and_haze(clean: Image, rng: np.random.Generator, scale: float = 1.0) -> Image:
    """Falling snow in front of a hazy scene."""
    return snow(haze(clean, rng, scale), rng, scale)


def low_light_and_noise(clean: Image, rng: np.random.Generator, scale: float = 1.0) -> Image:
    """2.3 to 4 stops too short, with noise that shows once the picture is brightened."""
    return short_exposure(clean, rng, (2.3, 4.0), shot=(0.0003, 0.0009), read=(0.001, 0.003))
