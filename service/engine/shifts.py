"""Cycle spinning: restore shifted copies of a photo and average them (Coifman and Donoho, 1995).

A codec of 8x8 patches shows their borders; copies shifted by half a patch have them elsewhere.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from service.images import Pixels

# In halves of a codec patch, (down, right).
HALF_SHIFTS = ((0, 0), (1, 1), (0, 1), (1, 0))


def offsets(num_shifts: int, patch_size: int) -> list[tuple[int, int]]:
    """The first `num_shifts` (1 to 4) shifts in pixels."""
    half = patch_size // 2
    return [(down * half, right * half) for down, right in HALF_SHIFTS[:num_shifts]]


def shifted_views(pixels: Pixels, shifts: Sequence[tuple[int, int]], multiple: int) -> Tensor:
    """(V, 3, H', W') in [-1, 1]: the photo at each shift, edges repeated, sides a multiple."""
    image = torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    height = pixels.shape[0] + max(down for down, _ in shifts)
    width = pixels.shape[1] + max(right for _, right in shifts)
    height, width = height + -height % multiple, width + -width % multiple
    views = []
    for down, right in shifts:
        below = height - pixels.shape[0] - down
        beside = width - pixels.shape[1] - right
        views.append(F.pad(image, (right, beside, down, below), mode="replicate"))
    return torch.cat(views)


def merge_views(views: Tensor, shifts: Sequence[tuple[int, int]], size: tuple[int, int]) -> Tensor:
    """(3, H, W): the mean of views (V, 3, H', W') after undoing their shifts."""
    height, width = size
    pairs = zip(views, shifts, strict=True)
    return torch.stack(
        [view[:, down : down + height, right : right + width] for view, (down, right) in pairs]
    ).mean(0)
