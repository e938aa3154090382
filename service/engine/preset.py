"""Presets: how a photo gets to the network's size and back, and what tasks of a sequence share.

`default` is ours. `reference` is what infer.py of the plugins' authors does, quirk by quirk, and
`reference-demo` what their demo.py does. docs/plugins.md says where they differ and by how much.
"""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from service.images import Pixels
from service.models.base_files import BaseSources
from service.settings import PresetName


@dataclass(frozen=True)
class Preset:
    """Fields are what the code asks; the names above choose among three sets of them."""

    min_side: int = 0  # photos whose shorter side is less are enlarged to it
    always_min_side: bool = False  # larger ones are reduced to it as well
    resizes_to_grid: bool = False  # else edges are padded, and cut off at the end
    returns_photo_size: bool = True  # else the network's
    renoise_from: int | None = None  # of starts from the image; None: noised once, at the start
    later_steps: int | None = None  # steps of all tasks but the first; None: as the first
    prompts_from_photo: bool = False  # F^p of later tasks is of the photo, not of what came so far


REFERENCE = Preset(
    min_side=512,
    resizes_to_grid=True,
    returns_photo_size=False,
    renoise_from=960,
    later_steps=3,
    prompts_from_photo=True,
)
REFERENCE_DEMO = replace(REFERENCE, always_min_side=True)


def choose_preset(name: PresetName, sources: BaseSources | None) -> Preset:
    """On a base: base.json says at what size it was trained; 512 for the authors' own."""
    side = sources.min_side if sources else 0
    if name == "default":
        return Preset(min_side=side, renoise_from=sources.renoise_from if sources else None)
    chosen = REFERENCE if name == "reference" else REFERENCE_DEMO
    return replace(chosen, min_side=side or chosen.min_side)


def fitted(pixels: Pixels, preset: Preset, multiple: int) -> Pixels:
    """The photo in the size that the first task gets; `multiple` is of the latent grid."""
    if preset.min_side:
        pixels = with_min_side(pixels, preset.min_side, preset.always_min_side)
    return on_grid(pixels, multiple) if preset.resizes_to_grid else pixels


def with_min_side(pixels: Pixels, side: int, always: bool = False) -> Pixels:
    """The shorter side raised to `side`, or always brought to it; bicubic."""
    height, width = pixels.shape[:2]
    return _resized(pixels, min_side_size(width, height, side, always), Image.Resampling.BICUBIC)


def min_side_size(width: int, height: int, side: int, always: bool) -> tuple[int, int]:
    """The longer side is truncated after a product of doubles, as the authors do it."""
    short = min(height, width)
    if short == side or (short > side and not always):
        return width, height
    longer = int((side / short) * max(height, width))
    return (side, longer) if width < height else (longer, side)


def on_grid(pixels: Pixels, multiple: int) -> Pixels:
    """Each side floored to a multiple, by a Lanczos resize of its own."""
    height, width = pixels.shape[:2]
    return _resized(pixels, grid_size(width, height, multiple), Image.Resampling.LANCZOS)


def grid_size(width: int, height: int, multiple: int) -> tuple[int, int]:
    return width - width % multiple, height - height % multiple


def _resized(pixels: Pixels, size: tuple[int, int], method: Image.Resampling) -> Pixels:
    """Width and height `size`; itself if it has them."""
    if size == (pixels.shape[1], pixels.shape[0]):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, method))
