"""Seeded, physically motivated degradations, one per task and more: clean photo -> training pair.

Images are float32 arrays (H, W, 3), sRGB-encoded, in [0, 1]. `scale` is the size of the whole photo
in units of 256 px: every length (streak, flake, kernel) grows with it, so a 96-px crop of a 256-px
photo is degraded with scale 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.training.degradations.blur import motion_or_defocus_blur
from service.training.degradations.compression import jpeg_artifacts
from service.training.degradations.damage import add_highlights, age_photo, degrade_face, to_grey
from service.training.degradations.mixtures import (
    low_light_and_noise,
    rain_and_haze,
    snow_and_haze,
)
from service.training.degradations.precipitation import falling_rain, falling_snow
from service.training.degradations.sensor import high_iso_noise, low_light, moire
from service.training.degradations.weather import haze, rain, snow

Image = NDArray[np.float32]
Degrade = Callable[[Image, np.random.Generator, float], Image]


class Pair(NamedTuple):
    """What a plugin sees and what it should return, both (H, W, 3)."""

    input: Image
    target: Image


REMOVAL: dict[str, Degrade] = {
    "derain": rain,
    "desnow": snow,
    "dehaze": haze,
    "lowlight": low_light,
    "demoire": moire,
    "highlight": add_highlights,
    "deblur": motion_or_defocus_blur,
    "face": degrade_face,
    "colorize": to_grey,
}
# Clean photo and white noise (H, W, 3): the noise says where it rains.
GENERATION: dict[str, Callable[[Image, Image], Image]] = {
    "snow": falling_snow,
    "rain": falling_rain,
}
TASKS = ("restore", *REMOVAL, *GENERATION)
# For plugins of one's own, or trained into another plugin beside its task.
PARTIAL: dict[str, Degrade] = {"noise": high_iso_noise, "dejpeg": jpeg_artifacts}
# Two damages at once, named for the tasks that undo them.
MIXTURES: dict[str, Degrade] = {
    "derain+dehaze": rain_and_haze,
    "desnow+dehaze": snow_and_haze,
    "lowlight+noise": low_light_and_noise,
}
NAMES = (*TASKS, *PARTIAL, *MIXTURES)


def make_pair(task: str, clean: Image, rng: np.random.Generator, scale: float = 1.0) -> Pair:
    """Degrade `clean` (H, W, 3) by one of NAMES; generation tasks have the clean photo as input.

    Raises ValueError for any other name.
    """
    if task == "restore":
        return Pair(*age_photo(clean, rng, scale))
    if task in GENERATION:
        noise = rng.standard_normal(clean.shape, dtype=np.float32)
        return Pair(clean, _finish(GENERATION[task](clean, noise)))
    if degrade := {**REMOVAL, **PARTIAL, **MIXTURES}.get(task):
        return Pair(_finish(degrade(clean, rng, scale)), clean)
    raise ValueError(f"no degradation is named {task!r}: use one of {', '.join(NAMES)}")


def _finish(image: Image) -> Image:
    """Clip to [0, 1] and round to 8 bits, as a file would."""
    return (np.round(np.clip(image, 0.0, 1.0) * 255.0) / 255.0).astype(np.float32)
