"""The mask of an edit: white is edited, black stays as it is, and the edge between is soft.

The feather lies inside of the white, so what is black keeps its very samples.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from service.errors import InvalidImage, InvalidRequest
from service.image_files import DAMAGE, ImageLimits, open_checked, save

Weights = NDArray[np.float32]  # (H, W): 0 keeps the input, 1 takes the restored picture

FEATHER_SIGMA_PX = 2
REACH_PX = 2 * FEATHER_SIGMA_PX


def read_mask(data: bytes, limits: ImageLimits, shape: tuple[int, ...]) -> Weights | None:
    """Feathered weights of a mask file that must have the height and width of the upright image.

    None, and the whole image is edited, if there is no file.
    """
    if not data:
        return None
    mask = open_checked(data, limits)
    if (mask.height, mask.width) != shape:
        raise _invalid(
            f"the mask has {mask.width}x{mask.height} pixels and the image, held upright, "
            f"{shape[1]}x{shape[0]}; send a mask of the image's size"
        )
    try:
        grey = mask.convert("L")
    except DAMAGE as error:
        raise InvalidImage(f"the mask is damaged or truncated: {error}") from error
    weights = feather(grey)
    if not weights.any():
        raise _invalid("the mask is all black; paint white what is to be edited")
    return weights


def mask_of_alpha(data: bytes, limits: ImageLimits) -> bytes:
    """A mask file whose transparent pixels are edited, as OpenAI has it -> one of ours (PNG)."""
    picture = open_checked(data, limits)
    if not picture.has_transparency_data:
        raise _invalid(
            "the mask has no transparency; make transparent (alpha 0) what is to be edited"
        )
    try:
        alpha = picture.convert("RGBA").getchannel("A")
    except DAMAGE as error:
        raise InvalidImage(f"the mask is damaged or truncated: {error}") from error
    return save(ImageChops.invert(alpha), "png", quality=0)


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, {"mask": message})


def mask_at_size(weights: Weights, shape: tuple[int, int]) -> Weights:
    """For a result that is not of the photo's size."""
    resized = Image.fromarray(weights).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32).clip(0, 1)


def feather(mask: Image.Image) -> Weights:
    """Each white pixel weighs the more, the further inside it is; thin strokes keep their core."""
    blurred = np.asarray(mask.filter(ImageFilter.GaussianBlur(FEATHER_SIGMA_PX)), np.float32)
    core = _largest_near(_largest_near(blurred, axis=0), axis=1)
    depth = np.clip(2 * blurred / np.maximum(core, 1) - 1, 0, 1)
    return np.asarray(np.asarray(mask, np.float32) / 255 * depth, np.float32)


def _largest_near(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Maximum over REACH_PX to both sides along `axis`."""
    largest = values.copy()
    for shift in range(1, REACH_PX + 1):
        for direction in (-shift, shift):
            moved = np.roll(values, direction, axis)
            edge = slice(None, direction) if direction > 0 else slice(direction, None)
            moved[edge if axis == 0 else (slice(None), edge)] = 0
            np.maximum(largest, moved, out=largest)
    return largest
