"""What a plugin is trained on: clean photos that are damaged on the fly, or pairs of a table."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from service.errors import InvalidRequest
from service.training.degradations import Image, Pair
from service.training.photos import (
    CropSettings,
    PairDataset,
    find_photos,
    read_photo,
    read_photos,
    to_square,
    to_tensor,
)
from service.training.sheets import Sample, damaged_samples

HEADER = ["input", "target"]
Crops = IterableDataset[tuple[Tensor, Tensor, int]]


class PluginData(Protocol):
    """Endless crops for the loop, a few whole pictures for the sheets, a line for the card."""

    tasks: Mapping[str, float]
    description: str

    def crops(self, crop: CropSettings, seed: tuple[int, ...]) -> Crops: ...
    def samples(self, size: int) -> list[Sample]: ...


class DamagedPhotos:
    """Photos below a folder; `tasks`: shares of the degradations."""

    def __init__(
        self, images: Path, pattern: str, tasks: Mapping[str, float], held_out: Path | None
    ) -> None:
        paths = find_photos(images, pattern)
        self.tasks = tasks
        self.description = (
            f"{len(paths)} photos, degraded on the fly by {' and '.join(sorted(tasks))} of\n"
            "`service/training/degradations`."
        )
        self._photos = read_photos(paths)
        self._held_out = find_photos(held_out, pattern) if held_out else paths

    def crops(self, crop: CropSettings, seed: tuple[int, ...]) -> Crops:
        return PairDataset(self._photos, self.tasks, crop, seed)

    def samples(self, size: int) -> list[Sample]:
        return damaged_samples(self._held_out, list(self.tasks), size, num_photos=8)


class PhotoPair(NamedTuple):
    """A damaged photo and its truth, both (H, W, 3) uint8; named as the file of the first."""

    name: str
    input: NDArray[np.uint8]
    target: NDArray[np.uint8]


class TablePairs:
    """Pairs of a CSV as the paper has it: two columns, input and target."""

    def __init__(self, table: Path, name: str) -> None:
        self.tasks: Mapping[str, float] = {name: 1.0}
        self._pairs = read_pairs(table)
        self.description = f"{len(self._pairs)} pairs of `{table.name}`."

    def crops(self, crop: CropSettings, seed: tuple[int, ...]) -> Crops:
        return PairCrops(self._pairs, crop, seed)

    def samples(self, size: int) -> list[Sample]:
        return [
            Sample(Pair(to_square(pair.input, size), to_square(pair.target, size)), 0)
            for pair in self._pairs[:8]
        ]


def read_pairs(table: Path) -> list[PhotoPair]:
    """Pairs of files, relative to where the table is; a first line `input,target` is a header.

    Raises InvalidRequest for a line without two columns, for a file that is no image, and for a
    pair of unequal sizes.
    """
    pairs = []
    for number, row in enumerate(
        csv.reader(table.read_text(encoding="utf-8").splitlines()), start=1
    ):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and cells == HEADER):
            continue
        if len(cells) != 2:
            raise InvalidRequest(f"{table}:{number} needs two columns, input and target")
        try:
            damaged, truth = (read_photo(table.parent / cell) for cell in cells)
        except ValueError as error:
            raise InvalidRequest(f"{table}:{number}: {error}") from error
        if damaged.shape != truth.shape:
            raise InvalidRequest(
                f"{table}:{number}: input is {damaged.shape[1]}x{damaged.shape[0]}, "
                f"target {truth.shape[1]}x{truth.shape[0]}; they must agree"
            )
        pairs.append(PhotoPair(Path(cells[0]).stem, damaged, truth))
    if not pairs:
        raise InvalidRequest(f"{table} has no pairs: give lines of two columns, input and target")
    return pairs


class PairCrops(Crops):
    """Endless windows of random pairs at their own resolution, mirrored by chance, in [-1, 1].

    Or the whole pairs, as far as a square goes, at the size of a window.
    """

    def __init__(self, pairs: list[PhotoPair], crop: CropSettings, seed: tuple[int, ...]) -> None:
        self.pairs, self.crop, self.seed = pairs, crop, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, int]]:
        info = get_worker_info()
        rng = np.random.default_rng([*self.seed, info.id if info else 0])
        while True:
            damaged, truth = self._window(self.pairs[rng.integers(len(self.pairs))], rng)
            is_clean = rng.random() < self.crop.clean_share
            yield to_tensor(truth if is_clean else damaged), to_tensor(truth), 0

    def _window(self, pair: PhotoPair, rng: np.random.Generator) -> Pair:
        """The same window of both, enlarged first where the pair is smaller than it."""
        size = self.crop.size
        if self.crop.whole:
            return Pair(to_square(pair.input, size), to_square(pair.target, size))
        height, width = pair.input.shape[:2]
        factor = max(1.0, size / min(height, width))
        large = (max(size, round(width * factor)), max(size, round(height * factor)))
        top, left = rng.integers(large[1] - size + 1), rng.integers(large[0] - size + 1)
        turn = slice(None, None, -1) if rng.random() < 0.5 else slice(None)

        def cut(photo: NDArray[np.uint8]) -> Image:
            whole = cv2.resize(photo, large) if factor > 1 else photo
            window = whole[top : top + size, left : left + size][:, turn]
            return (window / 255.0).astype(np.float32)

        return Pair(cut(pair.input), cut(pair.target))
