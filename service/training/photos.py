"""Photos in memory, and random training pairs cut from them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from tqdm import tqdm

from service.training.degradations import REMOVAL, Image, Pair, make_pair

# Tasks whose input may be clean already: all that remove something but the colour of a photo.
TARGET_IS_CLEAN = {"restore", *REMOVAL} - {"colorize"}
PRIORS = ("lowlight", "dehaze", "colorize")
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def find_photos(folder: Path, pattern: str = "*") -> list[Path]:
    """Image files below `folder` whose names match the glob, sorted; an error if there are none."""
    paths = sorted(p for p in folder.rglob(pattern) if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise FileNotFoundError(
            f"no image ({', '.join(sorted(SUFFIXES))}) matches {folder}/{pattern}"
        )
    return paths


def read_photo(path: Path) -> NDArray[np.uint8]:
    """RGB pixels (H, W, 3)."""
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError(f"{path} is not a readable image")
    return np.asarray(pixels[..., ::-1], np.uint8).copy()


def read_photos(paths: list[Path]) -> list[NDArray[np.uint8]]:
    """All photos in memory, for data workers forked from this process to share."""
    # OpenCV's thread pool does not survive a fork: a worker's first filter would wait for ever.
    cv2.setNumThreads(0)
    return [read_photo(path) for path in tqdm(paths, desc="photos")]


@dataclass(frozen=True)
class CropSettings:
    """size: side in pixels, of a crop or of all that a square can have of a `whole` photo.

    The shares are of removal pairs.
    clean_share: input and target are the clean photo, so that a plugin leaves such photos alone.
    prior_share: the photo was dark, hazy or grey before, and must stay so: one task does one thing.
    """

    size: int = 128
    clean_share: float = 0.06
    prior_share: float = 0.12
    whole: bool = False


class PairDataset(IterableDataset[tuple[Tensor, Tensor, int]]):
    """Endless (input, target, task index) with images (3, size, size) in [-1, 1].

    The photo is virtually resized to a short side around 256 px before the crop is cut, and lengths
    of the degradation follow that size, so every crop looks like a part of a whole degraded photo.
    """

    def __init__(
        self,
        photos: list[NDArray[np.uint8]],
        tasks: Mapping[str, float],
        crop: CropSettings,
        seed: tuple[int, ...],
    ) -> None:
        self.photos, self.crop, self.seed = photos, crop, seed
        self.tasks = list(tasks)
        weights = np.array(list(tasks.values()))
        self.weights = weights / weights.sum()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, int]]:
        info = get_worker_info()
        rng = np.random.default_rng([*self.seed, info.id if info else 0])
        while True:
            index = int(rng.choice(len(self.tasks), p=self.weights))
            pair = self._pair(self.tasks[index], rng)
            yield to_tensor(pair.input), to_tensor(pair.target), index

    def _pair(self, task: str, rng: np.random.Generator) -> Pair:
        photo = self.photos[rng.integers(len(self.photos))]
        cut = whole_square if self.crop.whole else random_crop
        clean, scale = cut(photo, self.crop.size, rng)
        if task not in TARGET_IS_CLEAN:
            return make_pair(task, clean, rng, scale)
        draw = rng.random()
        if draw < self.crop.clean_share:
            return Pair(clean, clean)
        if draw < self.crop.clean_share + self.crop.prior_share:
            prior = rng.choice([name for name in PRIORS if name != task])
            clean = make_pair(str(prior), clean, rng, scale).input
        return make_pair(task, clean, rng, scale)


def random_crop(
    photo: NDArray[np.uint8], size: int, rng: np.random.Generator
) -> tuple[Image, float]:
    """A crop (size, size, 3) in [0, 1] of the photo at a random scale, and that scale / 256 px."""
    height, width = photo.shape[:2]
    short = int(np.clip(256 * 2 ** rng.normal(0.0, 0.5), size, 640))
    window = min(round(size * min(height, width) / short), height, width)
    top = rng.integers(height - window + 1)
    left = rng.integers(width - window + 1)
    crop = photo[top : top + window, left : left + window]
    method = cv2.INTER_AREA if window > size else cv2.INTER_CUBIC
    resized = cv2.resize(crop, (size, size), interpolation=method)
    if rng.random() < 0.5:
        resized = resized[:, ::-1]
    image = (resized.astype(np.float32) / 255.0) ** rng.uniform(0.85, 1.2)
    return image.astype(np.float32), float(np.clip(short / 256, 0.6, 2.0))


def whole_square(
    photo: NDArray[np.uint8], size: int, rng: np.random.Generator
) -> tuple[Image, float]:
    """to_square, mirrored by chance, with the tone that the photo has, and its scale / 256 px."""
    image = to_square(photo, size)
    return np.ascontiguousarray(image[:, ::-1] if rng.random() < 0.5 else image), size / 256


def to_tensor(image: Image) -> Tensor:
    """(H, W, 3) in [0, 1] -> (3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))) * 2 - 1


def to_square(photo: NDArray[np.uint8], size: int) -> Image:
    """The photo at a short side of `size`, cropped to its centre: (size, size, 3) in [0, 1]."""
    height, width = photo.shape[:2]
    factor = size / min(height, width)
    resized = cv2.resize(
        photo,
        (max(size, round(width * factor)), max(size, round(height * factor))),
        interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC,
    )
    top, left = (resized.shape[0] - size) // 2, (resized.shape[1] - size) // 2
    return resized[top : top + size, left : left + size].astype(np.float32) / 255.0
