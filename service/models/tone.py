"""A colour transform predicted from the whole photo and applied to every pixel, smooth over it.

As in HDRNet (Gharbi et al. 2017) a small network on a reduced copy gives coefficients on a coarse
grid; here they weigh the colours of input and restored photo, their squares and one.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SEEN = 64  # side of the reduced copy
WIDTHS = (24, 32, 48, 64)
NUM_TERMS = 13
LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)  # quantiles of each colour


class Tone(nn.Module):
    """coefficients() of a whole photo, then transform() of it or of any part. Fresh: no change.

    With `levels` it sees the quantiles of the colours: a faded photo has no black and no white.
    """

    def __init__(self, levels: bool = False) -> None:
        super().__init__()
        pairs = zip((6, *WIDTHS), WIDTHS, strict=False)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.whole = nn.Linear(WIDTHS[-1], WIDTHS[-1])
        self.levels = nn.Linear(6 * len(LEVELS), WIDTHS[-1]) if levels else None
        self.head = nn.Conv2d(2 * WIDTHS[-1], 3 * NUM_TERMS, 1)
        torch.nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor, restored: Tensor) -> Tensor:
        """Whole photos (B, 3, H, W) in [-1, 1] -> the restored ones, transformed."""
        grid = self.coefficients(images, restored)
        height, width = restored.shape[-2:]
        full = coefficients_at(grid, slice(0, height), slice(0, width), (height, width))
        return transform(full, images, restored)

    def coefficients(self, images: Tensor, restored: Tensor) -> Tensor:
        """(B, 39, 4, 4) of whole photos (B, 3, H, W)."""
        hidden = seen = F.interpolate(torch.cat([images, restored], 1), (SEEN, SEEN), mode="area")
        for conv in self.convs:
            hidden = F.leaky_relu(conv(hidden), 0.1)
        whole = self.whole(hidden.mean((2, 3)))
        if self.levels is not None:
            whole = whole + self.levels(quantiles(seen))
        whole = F.leaky_relu(whole, 0.1)[:, :, None, None]
        grid: Tensor = self.head(torch.cat([hidden, whole.expand_as(hidden)], 1))
        return grid


def quantiles(colours: Tensor) -> Tensor:
    """(B, C, H, W) -> the LEVELS of each of the C, (B, C * 7)."""
    pixels = colours.flatten(2).sort(dim=2).values
    places = [round(level * (pixels.shape[2] - 1)) for level in LEVELS]
    return pixels[:, :, places].flatten(1)


def coefficients_at(grid: Tensor, rows: slice, columns: slice, size: tuple[int, int]) -> Tensor:
    """The grid (B, C, n, n) of a photo of `size`, interpolated at a part of it: (B, C, h, w)."""

    def centres(part: slice, side: int) -> Tensor:
        return (torch.arange(part.start, part.stop).to(grid) + 0.5) * (2 / side) - 1

    down, across = torch.meshgrid(centres(rows, size[0]), centres(columns, size[1]), indexing="ij")
    places = torch.stack([across, down], -1).expand(len(grid), -1, -1, -1)
    return F.grid_sample(grid, places, padding_mode="border", align_corners=False)


def transform(coefficients: Tensor, images: Tensor, restored: Tensor) -> Tensor:
    """restored (B, 3, H, W) plus, per colour, the weighted terms; coefficients (B, 39, H, W)."""
    terms = torch.cat(
        [restored, images, restored.square(), images.square(), torch.ones_like(images[:, :1])], 1
    )
    weights = coefficients.reshape(len(terms), 3, NUM_TERMS, *terms.shape[2:])
    return restored + torch.einsum("bkthw,bthw->bkhw", weights, terms)
