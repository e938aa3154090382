"""Batches as the second plugin of a sequence meets them: two damages, one of them undone.

The pairs of a mixture (`lowlight+noise`) are first run through the installed plugin of its first
task, as the engine runs it, so that its errors are part of what is learned.
"""

from collections.abc import Iterator, Mapping

import torch
from accelerate import PartialState
from torch import Tensor
from torch.utils.data import DataLoader

from service.models.plugin import Plugin
from service.training.loop import Batch
from service.training.restorer import Restorer


class FirstPlugin:
    """An installed plugin on its base, with the steps, shifts and output stage that it ships."""

    def __init__(self, restorer: Restorer, plugin: Plugin) -> None:
        device = PartialState().device
        self.restorer, self.plugin = restorer.to(device), plugin.to(device)

    @torch.no_grad()
    def restore(self, images: Tensor) -> Tensor:
        """Photos (B, 3, H, W) in [-1, 1] -> restored ones, on the device of `images`."""
        inputs = images.to(PartialState().device)
        tasks = torch.zeros(len(inputs), dtype=torch.long, device=inputs.device)
        manifest = self.plugin.manifest
        restored = self.restorer.restore(inputs, tasks, manifest.default_steps, manifest.num_shifts)
        if self.plugin.stage is not None:
            restored = self.plugin.stage(inputs, restored)
        return restored.clamp(-1, 1).to(images.device)


class HalfUndone:
    """A loader's batches, the rows of some tasks restored by the plugin that comes first."""

    def __init__(
        self, batches: DataLoader[tuple[Tensor, Tensor, int]], first: Mapping[int, FirstPlugin]
    ) -> None:
        self.batches, self.first, self.batch_size = batches, first, batches.batch_size

    def __iter__(self) -> Iterator[Batch]:
        for images, targets, tasks in self.batches:
            yield half_undone(images, tasks, self.first), targets, tasks


def half_undone(images: Tensor, tasks: Tensor, first: Mapping[int, FirstPlugin]) -> Tensor:
    """images (B, 3, H, W), the rows of tasks in `first` restored by its plugin."""
    undone = images.clone()
    for task, plugin in first.items():
        rows = tasks == task
        if rows.any():
            undone[rows] = plugin.restore(images[rows])
    return undone
