"""Contact sheets: rows of input, output and target pictures with their PSNR."""

from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from service.training.degradations import Pair, make_pair
from service.training.photos import read_photo, to_square, to_tensor


class Restores(Protocol):
    """Anything that restores a batch in [-1, 1]: the whole model, or one with an output stage."""

    def restore(self, images: Tensor, tasks: Tensor, steps: int) -> Tensor: ...


class Sample(NamedTuple):
    """A whole picture to look at, and the index of its task."""

    pair: Pair
    task: int


def damaged_samples(
    photos: list[Path], tasks: list[str], size: int, num_photos: int
) -> list[Sample]:
    """`num_photos` squares of `size` px for each task, the same at every call."""
    samples = []
    for index, task in enumerate(tasks):
        for number in range(num_photos):
            path = photos[(num_photos * index + number) * 5 % len(photos)]
            clean = to_square(read_photo(path), size)
            pair = make_pair(task, clean, np.random.default_rng(number), size / 256)
            samples.append(Sample(pair, index))
    return samples


class SampleSheet:
    """Draws the same samples at every call."""

    def __init__(self, samples: list[Sample], tasks: list[str]) -> None:
        self.tasks = tasks
        self.images = torch.stack([to_tensor(sample.pair.input) for sample in samples])
        self.targets = torch.stack([to_tensor(sample.pair.target) for sample in samples])
        self.indices = torch.tensor([sample.task for sample in samples])

    def draw(self, model: Restores, path: Path) -> None:
        outputs = model.restore(self.images, self.indices, steps=2).cpu().clamp(-1, 1)
        rows = [
            np.concatenate([_pixels(part[i]) for part in (self.images, outputs, self.targets)], 1)
            for i in range(len(self.images))
        ]
        for i, row in enumerate(rows):
            before = psnr(self.images[i], self.targets[i])
            after = psnr(outputs[i], self.targets[i])
            label = f"{self.tasks[int(self.indices[i])]} {before:.1f} -> {after:.1f} dB"
            cv2.putText(row, label, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 0), 1)
        half = (len(rows) + 1) // 2
        columns = [np.concatenate(part, 0) for part in (rows[:half], rows[half:]) if part]
        height = max(c.shape[0] for c in columns)
        columns = [np.pad(c, ((0, height - c.shape[0]), (0, 0), (0, 0))) for c in columns]
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.concatenate(columns, 1)[..., ::-1])


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two images in [-1, 1]."""
    return float(-10 * torch.log10(((a - b) / 2).square().mean().clamp_min(1e-10)))


def _pixels(image: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    unit = (image.permute(1, 2, 0).numpy() + 1) / 2
    return np.ascontiguousarray(np.round(unit * 255).clip(0, 255).astype(np.uint8))
