"""A photo that is too large for one call, on its way through one task of an edit.

First its overview, the photo reduced, is restored like any other. Then each view (shifted copy) of
the photo itself is denoised as overlapping tiles, and takes its tone from the overview.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from service.engine.canvas import Canvas
from service.engine.sampling import StepTable
from service.engine.tiles import Axis
from service.images import Pixels, UnitPixels
from service.models.plugin import Plugin

TILE_SIDE = 512  # pixels: what Stable Diffusion was trained on
TILE_OVERLAP = 96
MAX_TILES_PER_CALL = 4  # so that nobody waits long for a large photo's call to end


@dataclass
class LargeTask:
    """State of a task whose overview is restored."""

    overview: UnitPixels
    plugin: Plugin
    table: StepTable
    shifts: list[tuple[int, int]]  # of the views, in pixels
    tokens: Tensor  # (1, N, D): one for the whole photo
    context: Tensor  # (1, N, E): every cross-attention's keys and values of them
    axes: tuple[Axis, Axis]  # of a canvas, in latents, down and across
    max_rows: int  # tiles in one call
    views: Tensor  # (3, H, W) in [-1, 1]: the mean of all views, as far as they are done
    view: int = 0
    step: int = 0
    canvas: Canvas | None = None  # of the present view

    @property
    def is_done(self) -> bool:
        return self.view == len(self.shifts)

    @property
    def progress(self) -> tuple[int, int]:
        """UNet calls done, and all of them."""
        down, across = self.axes
        num_tiles = len(down.starts) * len(across.starts)
        per_step = -(-num_tiles // self.max_rows)
        num_done = (self.view * len(self.table) + self.step) * per_step
        if self.canvas is not None:
            num_done += self.canvas.num_done // self.max_rows
        return num_done, len(self.shifts) * len(self.table) * per_step


@dataclass
class LargePhoto:
    """Input of a task, and what its tiles are; `num_halvings`: how often memory ran out."""

    pixels: Pixels
    num_halvings: int = 0
    task: LargeTask | None = None

    @property
    def tile_side(self) -> int:
        return int(TILE_SIDE) >> self.num_halvings

    @property
    def tile_overlap(self) -> int:
        return int(TILE_OVERLAP) >> self.num_halvings

    @property
    def max_rows(self) -> int:
        return max(1, MAX_TILES_PER_CALL >> self.num_halvings)


def window_of(pixels: Pixels, shift: tuple[int, int], rows: slice, columns: slice) -> Pixels:
    """A window on the photo moved by `shift` (down, right), its edges repeated outwards."""
    height, width = pixels.shape[:2]
    y = np.arange(rows.start, rows.stop) - shift[0]
    x = np.arange(columns.start, columns.stop) - shift[1]
    return np.asarray(pixels[y.clip(0, height - 1)][:, x.clip(0, width - 1)])
