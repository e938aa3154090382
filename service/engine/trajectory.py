"""One edit on its way through the engine: what was asked, and where it is.

Edit is what a caller hands in. Trajectory is the engine's own, mutable state of it.
"""

from dataclasses import dataclass, field
from enum import Enum, auto

import torch
from torch import Tensor

from service.engine.sampling import SamplerState, StepTable
from service.images import Pixels
from service.jobs import Progress, Timings
from service.models.plugin import Plugin


@dataclass(frozen=True)
class Edit:
    """Restore `pixels` (H, W, 3) with `plugins` one after the other; steps None: their defaults."""

    id: str
    pixels: Pixels
    plugins: tuple[str, ...]
    steps: int | None = None
    seed: int = 0


class Stage(Enum):
    WAITING = auto()  # its current task is not prepared
    DENOISING = auto()
    DENOISED = auto()  # to be decoded


@dataclass
class Prepared:
    """Everything a task's steps need, computed once: a step then touches no plugin weight."""

    plugin: Plugin
    table: StepTable
    shifts: list[tuple[int, int]]  # in pixels; one of V views each, a row of the batch
    tokens: Tensor  # (1, N, D)
    residuals: tuple[Tensor, ...]  # each (steps, V, C, h, w): SCB does not read the noisy latent
    skip: Tensor | None  # (steps, V, C, h, w)
    state: SamplerState  # of (V, C, h, w)


@dataclass
class Trajectory:
    """Mutable state of an edit; the scheduler orders it, the runner advances it."""

    edit: Edit
    pixels: Pixels  # input of the current task
    task: int = 0
    step: int = 0
    stage: Stage = Stage.WAITING
    prepared: Prepared | None = None
    last_scheduled: int = 0  # number of the engine step that last ran it
    timings: Timings = field(default_factory=Timings)

    @property
    def plugin_name(self) -> str:
        return self.edit.plugins[self.task]

    @property
    def current(self) -> Prepared:
        assert self.prepared is not None, (
            "a trajectory is prepared before it is used. This is a bug."
        )
        return self.prepared

    @property
    def latent_shape(self) -> torch.Size:
        """(C, h, w); views are rows, so their number need not agree."""
        return self.current.state.x.shape[1:]

    @property
    def is_last_task(self) -> bool:
        return self.task + 1 == len(self.edit.plugins)

    @property
    def progress(self) -> Progress:
        return Progress(
            plugin=self.plugin_name,
            task=self.task + 1,
            num_tasks=len(self.edit.plugins),
            step=self.step,
            num_steps=len(self.current.table),
        )

    def spend(self, stage: str, seconds: float) -> None:
        """Add to one of the timings, e.g. denoise_s."""
        total = getattr(self.timings, stage) + seconds
        self.timings = self.timings.model_copy(update={stage: total})

    def start_next_task(self, pixels: Pixels) -> None:
        """Go on with the result of the task that ended."""
        self.pixels, self.prepared = pixels, None
        self.task, self.step, self.stage = self.task + 1, 0, Stage.WAITING
