"""Added rain and snow: is it visible, and is the photo kept where nothing fell?

There is no truth to compare with: no two showers have their flakes in the same places.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from service.evaluation.cases import Case
from service.evaluation.engine_restore import Restore
from service.evaluation.measured import restored
from service.evaluation.metrics import LUMA, mean_psnr, psnr
from service.training.degradations import Image

# A streak or flake is brighter than the photo by this much more than its surroundings are.
THRESHOLD = 0.04
WIDEST = 13  # pixels of the broadest flake at 256 px; what is broader counts as veil


@dataclass(frozen=True)
class Weather:
    """One photo with its added weather, and that of the procedural generator."""

    case: Case  # input: the photo, target: the procedural shower
    output: Image
    marks: NDArray[np.bool_]  # (H, W): streaks and flakes of the output


def added_marks(photo: Image, output: Image) -> NDArray[np.bool_]:
    """(H, W): where something thin and bright was added, with a border of one pixel.

    A white top-hat of the change in lightness: a broad veil, a shift in tone and lost texture are
    no marks, so they count as damage to the content.
    """
    change = (output - photo) @ LUMA
    size = max(3, round(WIDEST * photo.shape[0] / 256) | 1)
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    thin = cv2.morphologyEx(np.maximum(change, 0.0), cv2.MORPH_TOPHAT, element)
    marks = cv2.dilate((thin > THRESHOLD).astype(np.uint8), np.ones((3, 3), np.uint8))
    return marks.astype(bool)


def content_psnr(photo: Image, output: Image, marks: NDArray[np.bool_]) -> float:
    """PSNR in dB over the pixels without marks."""
    kept = ~marks
    if not kept.any():
        return 0.0
    return psnr(output[kept], photo[kept])


def weather(cases: Iterable[Case], task: str, restore: Restore) -> list[Weather]:
    """Add rain or snow to the input of every case."""
    return [
        Weather(case, output, added_marks(case.input, output))
        for case, output in restored(cases, (task,), restore)
    ]


def summarise_weather(found: list[Weather]) -> dict[str, object]:
    """Content kept, share of the frame under marks, their contrast; and that of the generator.

    The procedural generator is what the plugin was trained to imitate.
    """
    own = [(w.case.input, w.output, w.marks) for w in found]
    procedural = [
        (w.case.input, w.case.target, added_marks(w.case.input, w.case.target)) for w in found
    ]
    summary: dict[str, object] = {"num_photos": len(found)}
    for suffix, triples in (("", own), ("_procedural", procedural)):
        contents = [content_psnr(*triple) for triple in triples]
        summary |= {
            f"content_psnr{suffix}": round(mean_psnr(contents), 4),
            f"content_psnr_least{suffix}": round(min(contents), 4),
            f"marks_share{suffix}": round(float(np.mean([m.mean() for *_, m in triples])), 4),
            f"marks_contrast{suffix}": round(
                float(np.mean([_contrast(*triple) for triple in triples])), 4
            ),
        }
    return summary


def _contrast(photo: Image, output: Image, marks: NDArray[np.bool_]) -> float:
    """How much more the lightness rose under marks than elsewhere."""
    change = (output - photo) @ LUMA
    if not marks.any() or marks.all():
        return 0.0
    return float(change[marks].mean() - change[~marks].mean())
