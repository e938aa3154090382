"""The tone of an overview for a photo that was restored tile by tile.

A network normalises by what it sees, so each tile comes out with a tone of its own, and what is a
soft rectangle then shows however well tiles are blended. The overview saw everything: what differs
from it in the low frequencies is put right. The correction is a local linear function of the photo
(He et al., Guided Image Filtering, 2013, eq. 5, 6), so that it changes at edges, not around them.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from service.images import UnitPixels

RADIUS_PX = 32  # of the photo: a third of the tiles' overlap, so that its ramps are put right
MIN_RADIUS = 4  # of the overview: below, its details would count
EPSILON = 0.005  # variance from which on an edge counts as one
STRIP_PX = 256


def take_tone(image: UnitPixels, overview: UnitPixels) -> UnitPixels:
    """`image` (H, W, 3), changed in place and clipped, with the low frequencies of `overview`."""
    height, width = image.shape[:2]
    wanted = _planes(overview)
    size = (wanted.shape[1], wanted.shape[2])
    found = F.adaptive_avg_pool2d(_planes(image), size)
    radius = max(MIN_RADIUS, round(RADIUS_PX * size[0] / height))
    slope, offset = _local_fit(found, wanted - found, radius)
    lines = torch.cat([slope, offset])  # (6, h, w)
    for top in range(0, height, STRIP_PX):
        strip = image[top : top + STRIP_PX]
        enlarged = _enlarged(lines, (top, top + len(strip)), (height, width))
        a, b = enlarged[..., :3], enlarged[..., 3:]
        strip += strip * a.numpy() + b.numpy()
        np.clip(strip, 0, 1, out=strip)
    return image


def _local_fit(guide: Tensor, values: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Slope and offset (3, h, w) of values ~ slope * guide + offset around each place."""
    mean_g, mean_v = _mean(guide, radius), _mean(values, radius)
    variance = _mean(guide * guide, radius) - mean_g * mean_g
    covariance = _mean(guide * values, radius) - mean_g * mean_v
    slope = covariance / (variance + EPSILON)
    return _mean(slope, radius), _mean(mean_v - slope * mean_g, radius)


def _mean(planes: Tensor, radius: int) -> Tensor:
    """Over squares of 2 * radius + 1, smaller at the borders."""
    kernel = 2 * radius + 1
    down = F.avg_pool2d(planes, (kernel, 1), 1, (radius, 0), count_include_pad=False)
    return F.avg_pool2d(down, (1, kernel), 1, (0, radius), count_include_pad=False)


def _enlarged(planes: Tensor, rows: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Some rows (n, W, C) of the planes (C, h, w) brought to `size`, bilinearly."""
    height, width = planes.shape[1:]
    y = ((torch.arange(*rows) + 0.5) * height / size[0] - 0.5).clamp(0, height - 1)
    above = y.floor().long()
    below = (above + 1).clamp(max=height - 1)
    part = torch.lerp(planes[:, above], planes[:, below], (y - above)[None, :, None])
    wide = F.interpolate(part, size[1], mode="linear", align_corners=False)
    return wide.permute(1, 2, 0)


def _planes(image: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)
