"""What restoration is measured on: a damaged picture and its truth, made or read from files."""

import csv
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.errors import InvalidRequest
from service.evaluation.metrics import to_image
from service.training.degradations import NAMES, Image, Pair, make_pair
from service.training.photos import find_photos, read_photo, to_square

HEADER = ["input", "target"]
# Plugins that are not named as what they undo.
DAMAGES = {"denoise": "noise"}


@dataclass(frozen=True)
class Case:
    """One picture as it is given and as it should be, both (H, W, 3) in [0, 1]."""

    name: str
    input: Image
    target: Image


def choose_photos(folder: Path, pattern: str = "*", limit: int | None = None) -> list[Path]:
    """Photos below `folder` named like the glob; at most `limit`, spread evenly over the list."""
    photos = find_photos(folder, pattern)
    if limit is None or limit >= len(photos):
        return photos
    if limit < 1:
        raise ValueError("limit must be at least 1")
    return [photos[index * len(photos) // limit] for index in range(limit)]


def photos_for(task: str, photos: list[Path]) -> list[Path]:
    """Faces are judged on photos named so, if there are any."""
    faces = [path for path in photos if "face" in path.name.lower()]
    return faces if task == "face" and faces else photos


def damage_of(task: str) -> str | None:
    """The degradation that a plugin is measured on; None if none is known."""
    name = DAMAGES.get(task, task)
    return name if name in NAMES else None


def synthetic_cases(photos: list[Path], task: str, size: int, seed: int) -> Iterator[Case]:
    """Every photo with the damage of a task, or with a mixture."""
    for path in photos:
        pair = seeded_pair(path, damage_of(task) or task, size, seed)
        yield Case(path.stem, pair.input, pair.target)


def seeded_pair(path: Path, degradation: str, size: int, seed: int) -> Pair:
    """The degraded photo and its truth; the same for the same file name, whatever else is run."""
    clean = to_square(read_photo(path), size)
    rng = np.random.default_rng([seed, zlib.crc32(f"{degradation}/{path.name}".encode())])
    return make_pair(degradation, clean, rng, size / 256)


def pair_cases(table: Path) -> Iterator[Case]:
    """Pairs of a CSV with the columns input and target: files, relative to where the CSV is.

    Raises InvalidRequest for a line without two columns, and for a pair of unequal sizes.
    """
    rows = list(csv.reader(table.read_text(encoding="utf-8").splitlines()))
    for number, row in enumerate(rows, start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and cells == HEADER):
            continue
        if len(cells) != 2:
            raise InvalidRequest(f"{table}:{number} needs two columns, input and target")
        damaged, truth = (to_image(read_photo(table.parent / cell)) for cell in cells)
        if damaged.shape != truth.shape:
            raise InvalidRequest(
                f"{table}:{number}: input is {damaged.shape[1]}x{damaged.shape[0]}, "
                f"target {truth.shape[1]}x{truth.shape[0]}; they must agree"
            )
        yield Case(Path(cells[0]).stem, damaged, truth)
