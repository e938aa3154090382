"""What engine.step() reports to its owner."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from service.errors import DiffPluginError
from service.images import Pixels, UnitPixels
from service.jobs import Progress, Timings


@dataclass(frozen=True)
class StepDone:
    """One denoising step of one edit."""

    id: str
    progress: Progress


@dataclass(frozen=True)
class PreviewDone:
    """What a step expects the result of its task to be; follows its StepDone."""

    id: str
    progress: Progress
    expected: UnitPixels  # (H, W, 3), as EditDone.restored


@dataclass(frozen=True)
class TaskDone:
    """Task `task` (1-based) of an edit, not its last, and the pixels that the next one gets."""

    id: str
    task: int
    pixels: Pixels
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EditDone:
    """All tasks of an edit; `restored` (H, W, 3) has the size of its input."""

    id: str
    restored: UnitPixels
    timings: Timings
    num_steps: int = 0  # that were denoised here, summed over tasks
    versions: Mapping[str, str] = field(default_factory=dict)  # of the plugins it ran on

    @property
    def pixels(self) -> Pixels:
        """`restored` in 8 bits."""
        return np.rint(self.restored * 255).astype(np.uint8)


@dataclass(frozen=True)
class EditFailed:
    """The edit left the engine; the others go on."""

    id: str
    error: DiffPluginError


@dataclass(frozen=True)
class BatchDone:
    """One UNet call: the plugin of every edit in it, and how long it took.

    `max_edits` is how many it had room for.
    """

    plugins: tuple[str, ...]
    seconds: float
    max_edits: int = 0  # 0: not known


Update = StepDone | PreviewDone | TaskDone | EditDone | EditFailed | BatchDone
