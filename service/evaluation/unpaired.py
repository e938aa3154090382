"""Real photos without a truth: statistics before and after.

None of them is a score: more contrast may be less haze or more noise. The pictures decide.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from service.evaluation.cases import Case
from service.evaluation.engine_restore import Restore
from service.evaluation.measured import restored
from service.evaluation.metrics import LUMA, mean_psnr, psnr, to_image
from service.training.degradations import Image
from service.training.photos import find_photos, read_photo

HAZE_PATCH = 15


@dataclass(frozen=True)
class Changed:
    """One photo before and after; its case has no truth, so its target is its input."""

    case: Case
    output: Image


def statistics(image: Image) -> dict[str, float]:
    """No-reference statistics of an image (H, W, 3) in [0, 1].

    lightness and contrast: mean and deviation of the luma. colourfulness: Hasler and Suesstrunk
    2003. sharpness: mean gradient of the luma. noise: sigma after Immerkaer 1996. haze: mean dark
    channel (He et al. 2009). clipped: share of pixels at either end.
    """
    luma = (image @ LUMA).astype(np.float32)
    across, down = (cv2.Sobel(luma, cv2.CV_32F, dx, 1 - dx, scale=1 / 8) for dx in (1, 0))
    dark = cv2.erode(image.min(axis=2), np.ones((HAZE_PATCH, HAZE_PATCH), np.uint8))
    return {
        "lightness": float(luma.mean()),
        "contrast": float(luma.std()),
        "colourfulness": _colourfulness(image),
        "sharpness": float(np.hypot(across, down).mean()),
        "noise": _noise_sigma(luma),
        "haze": float(dark.mean()),
        "clipped": float(((luma < 0.01) | (luma > 0.99)).mean()),
    }


def run_unpaired(folder: Path, task: str, size: int, restore: Restore) -> list[Changed]:
    """The photos of folder/<task> if there is such a folder, else of all of `folder`.

    Photos keep their shape; a short side above `size` is brought down to it.
    """
    own = folder / task
    cases = [_case(path, size) for path in find_photos(own if own.is_dir() else folder)]
    return [Changed(case, output) for case, output in restored(cases, (task,), restore)]


def summarise_unpaired(found: list[Changed]) -> dict[str, object]:
    """Mean statistics before and after, and how far the output is from the input."""
    before = [statistics(item.case.input) for item in found]
    after = [statistics(item.output) for item in found]
    return {
        "num_photos": len(found),
        "psnr_to_input": round(mean_psnr(psnr(i.output, i.case.input) for i in found), 4),
        "before": _means(before),
        "after": _means(after),
    }


def _case(path: Path, size: int) -> Case:
    photo = read_photo(path)
    height, width = photo.shape[:2]
    factor = min(1.0, size / min(height, width))
    small = cv2.resize(
        photo, (round(width * factor), round(height * factor)), interpolation=cv2.INTER_AREA
    )
    image = to_image(np.asarray(small, np.uint8))
    return Case(path.stem, image, image)


def _colourfulness(image: Image) -> float:
    red_green = image[..., 0] - image[..., 1]
    yellow_blue = (image[..., 0] + image[..., 1]) / 2 - image[..., 2]
    spread = np.hypot(red_green.std(), yellow_blue.std())
    return float(spread + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean()))


def _noise_sigma(luma: NDArray[np.float32]) -> float:
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = np.abs(cv2.filter2D(luma, -1, kernel)[1:-1, 1:-1])
    return float(np.sqrt(np.pi / 2) * response.mean() / 6)


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}
