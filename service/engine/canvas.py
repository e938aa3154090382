"""A large picture while its tiles are denoised: their predictions are blended at every step.

After MultiDiffusion (Bar-Tal et al., 2023, eq. 5): tiles are cut from one noisy latent, and what
they predict is averaged into the next one. A sampler's update is linear, with scalars that depend
on the step alone, so averaging updated tiles is the same as averaging predictions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from service.engine.sampling import SamplerState
from service.engine.tiles import Axis

HISTORY = ("previous", "m1", "m2")  # fields of SamplerState that multistep samplers read


@dataclass(frozen=True)
class Tile:
    """Where a tile is on a canvas, in latents, and its weights there."""

    rows: slice
    columns: slice
    weights: Tensor  # (h, w)

    def cut_from(self, canvas: Tensor) -> Tensor:
        """(C, h, w) of (C, H, W)."""
        return canvas[:, self.rows, self.columns]


def tiles_of(down: Axis, across: Axis, device: torch.device) -> list[Tile]:
    """Tile by tile, row by row."""
    return [
        Tile(
            slice(top, top + down.size),
            slice(left, left + across.size),
            (vertical[:, None] * horizontal).to(device),
        )
        for top, vertical in zip(down.starts, down.weights, strict=True)
        for left, horizontal in zip(across.starts, across.weights, strict=True)
    ]


class Canvas:
    """Sampler state of the whole picture, each field (C, H, W), and how far its step has come.

    `cond` is the picture's latent (C, H, W). At most `max_rows` tiles run in one call. What a
    sampler without memory does not read is not kept: a canvas may have a gigabyte.
    """

    def __init__(
        self, tiles: list[Tile], cond: Tensor, x: Tensor, max_rows: int, has_history: bool
    ) -> None:
        self.tiles, self.cond = tiles, cond
        self._max_rows = max_rows
        self._now = {"x": x}
        if has_history:
            self._now |= {name: torch.zeros_like(x) for name in HISTORY}
        self._next: dict[str, Tensor] = {}
        self.num_done = 0  # tiles of the present step

    @property
    def x(self) -> Tensor:
        return self._now["x"]

    def rows(self) -> tuple[SamplerState, Tensor]:
        """State and condition latents of the tiles that are due, (B, C, h, w)."""
        state = SamplerState.start(self._cut(self.x))
        kept = {name: self._cut(self._now[name]) for name in HISTORY if name in self._now}
        return state._replace(**kept), self._cut(self.cond)

    def accept(self, state: SamplerState) -> bool:
        """Blend in the tiles that were due, one step further; True if the step is complete."""
        if not self._next:
            self._next = {name: torch.zeros_like(field) for name, field in self._now.items()}
        for name, field in self._next.items():
            for tile, row in zip(self._due, getattr(state, name), strict=True):
                tile.cut_from(field).add_(tile.weights * row)
        self.num_done += len(self._due)
        if self.num_done < len(self.tiles):
            return False
        self._now, self._next, self.num_done = self._next, {}, 0
        return True

    @property
    def _due(self) -> list[Tile]:
        return self.tiles[self.num_done : self.num_done + self._max_rows]

    def _cut(self, field: Tensor) -> Tensor:
        return torch.stack([tile.cut_from(field) for tile in self._due])
