"""Where a large picture is cut into overlapping tiles, and the weights that blend them again.

Plain geometry, along one axis: tiles of a picture are the product of two axes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """Tiles of `size` along a side of `length`; all weights at one place sum to one."""

    length: int
    size: int
    starts: tuple[int, ...]
    weights: Tensor  # (len(starts), size)

    @classmethod
    def of(cls, length: int, size: int, starts: tuple[int, ...]) -> "Axis":
        """Weights fall to zero towards a tile's borders, where its network sees least around."""
        ramps = torch.ones(len(starts), size)
        for i in range(1, len(starts)):
            num = min(starts[i - 1] + size - starts[i], size)
            rise = 0.5 - 0.5 * torch.cos(math.pi * (torch.arange(num) + 0.5) / num)
            ramps[i, :num] *= rise
            ramps[i - 1, size - num :] *= rise.flip(0)
        total = torch.zeros(length)
        for start, ramp in zip(starts, ramps, strict=True):
            total[start : start + size] += ramp
        weights = [r / total[s : s + size] for s, r in zip(starts, ramps, strict=True)]
        return cls(length, size, starts, torch.stack(weights))

    def scaled(self, factor: int) -> "Axis":
        """The same tiles where a unit is `factor` finer: pixels instead of latents."""
        starts = tuple(factor * start for start in self.starts)
        return Axis.of(factor * self.length, factor * self.size, starts)


def cut(length: int, side: int, overlap: int, multiple: int) -> Axis:
    """As few tiles of `side` as overlap by at least `overlap`, evenly spread.

    Sizes and starts are multiples of `multiple`, as `length` must be.
    """
    size = min(length, side - side % multiple)
    num = max(1, math.ceil((length - overlap) / max(1, size - overlap)))
    if num == 1:
        return Axis.of(length, length, (0,))
    span = (length - size) // multiple
    starts = tuple(multiple * round(i * span / (num - 1)) for i in range(num))
    return Axis.of(length, size, starts)


def windows(length: int, side: int, margin: int) -> Iterator[tuple[slice, slice, slice]]:
    """Pieces of a side for a network that looks at most `margin` around: what it must see, the
    piece within that, and the piece itself.
    """
    for start in range(0, length, side):
        stop = min(start + side, length)
        first, last = max(0, start - margin), min(length, stop + margin)
        yield slice(first, last), slice(start - first, stop - first), slice(start, stop)
