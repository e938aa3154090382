"""The output stage of a large photo: the tone of the whole, then the refinement piece by piece."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from service.engine.tiles import windows
from service.images import Pixels
from service.models.output_stage import OutputStage
from service.models.tone import SEEN, coefficients_at, transform

SIDE = 512
# What the U-Net looks at around a pixel, and a multiple of its coarsest cell.
MARGIN = 96


def refine_large(stage: OutputStage, pixels: Pixels, restored: Tensor, seed: int) -> Tensor:
    """What stage(image, restored) makes of pixels (H, W, 3) and restored (3, H, W) in [-1, 1]."""
    like = stage.conv_in.weight
    grid = stage.tone.coefficients(_reduced(pixels).to(like), _small(restored[None]).to(like))
    noise = None
    if stage.config.noise:
        noise = torch.randn(restored.shape, generator=torch.Generator().manual_seed(seed))
    refined = torch.empty_like(restored)
    size = (restored.shape[1], restored.shape[2])
    for seen_rows, inner_rows, rows in windows(size[0], SIDE, MARGIN):
        for seen_columns, inner_columns, columns in windows(size[1], SIDE, MARGIN):
            # A copy: a decoder's pixels may be read-only, which torch warns of.
            part = torch.from_numpy(pixels[seen_rows, seen_columns].copy()).permute(2, 0, 1)[None]
            images = part.to(like) / 127.5 - 1
            before = restored[None, :, seen_rows, seen_columns].to(like)
            weights = coefficients_at(grid, seen_rows, seen_columns, size)
            drawn = None if noise is None else noise[None, :, seen_rows, seen_columns].to(like)
            after = stage.refine(images, transform(weights, images, before), drawn)[0]
            refined[:, rows, columns] = after[:, inner_rows, inner_columns].float().cpu()
    return refined


def _reduced(pixels: Pixels) -> Tensor:
    """(1, 3, 64, 64) in [-1, 1]."""
    planes = (torch.from_numpy(pixels[..., k].astype(np.float32)) for k in range(3))
    return torch.cat([_small(plane[None, None]) for plane in planes], 1) / 127.5 - 1


def _small(images: Tensor) -> Tensor:
    return F.interpolate(images, (SEEN, SEEN), mode="area")
