"""What restoration is measured on: a damaged picture and its truth, made or read from files."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.evaluation.metrics import to_image
from service.training.degradations import NAMES, Image, Pair, make_pair
from service.training.photos import find_photos, read_photo, to_square
from service.training.plugin_data import read_pairs

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
    """Pairs of a CSV with the columns input and target, as a plugin can be trained on."""
    for pair in read_pairs(table):
        yield Case(pair.name, to_image(pair.input), to_image(pair.target))
