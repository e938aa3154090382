"""One edit on its way through the engine: what was asked, and where it is.

Edit is what a caller hands in. Trajectory is the engine's own, mutable state of it.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

import torch
from torch import Tensor

from service.engine.complements import Complements
from service.engine.sampling import SamplerState, StepTable
from service.engine.side_stream import Mark
from service.images import Pixels
from service.jobs import Progress, Timings


@dataclass(frozen=True)
class Edit:
    """Restore `pixels` (H, W, 3) with `plugins` one after the other; steps None: their defaults.

    `num_done` of the plugins have run already, and `pixels` are what they made. `versions` are
    those that an edit which is resumed has started with.
    """

    id: str
    pixels: Pixels
    plugins: tuple[str, ...]
    steps: int | None = None
    seed: int = 0
    num_done: int = 0
    num_previews: int = 0  # at most; evenly spread over the steps of all tasks
    versions: Mapping[str, str] = field(default_factory=dict)


class Stage(Enum):
    WAITING = auto()  # its current task is not prepared
    DENOISING = auto()
    DENOISED = auto()  # to be decoded
    DECODED = auto()  # to be handed out


@dataclass
class Prepared:
    """Everything a task's steps need, computed ahead: most steps touch no plugin weight."""

    mark: Mark  # past once all of it is computed
    table: StepTable
    shifts: list[tuple[int, int]]  # in pixels; one of V views each, a row of the batch
    context: Tensor  # (1, N, E): every cross-attention's keys and values of the tokens
    complements: Complements
    state: SamplerState  # of (V, C, h, w), when it last entered or left a batch


@dataclass
class Decoded:
    """A restored image (H, W, 3) in [0, 1] on its way from the device."""

    mark: Mark  # past once it is there
    image: Tensor


@dataclass
class Trajectory:
    """Mutable state of an edit; the scheduler orders it, the runner advances it."""

    edit: Edit
    pixels: Pixels  # input of the current task
    versions: Mapping[str, str]  # of its plugins, to its end
    task: int = 0
    step: int = 0
    num_steps_done: int = 0  # of all tasks
    stage: Stage = Stage.WAITING
    prepared: Prepared | None = None
    decoded: Decoded | None = None
    last_scheduled: int = 0  # number of the engine step that last ran it
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

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
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

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

    @property
    def is_preview_due(self) -> bool:
        """The step that was just done passed one of the marks that part the way evenly."""
        parts = self.edit.num_previews + 1
        before, now = (int(parts * self._share(step)) for step in (self.step - 1, self.step))
        return before < now < parts

    def _share(self, step: int) -> float:
        """Of the whole way that `step` of the current task ends; tasks count alike."""
        return (self.task + step / len(self.current.table)) / len(self.edit.plugins)

    @property
    def timings(self) -> Timings:
        return Timings(**self.seconds)

    def spend(self, stage: str, seconds: float) -> None:
        """Add to one of the timings, e.g. denoise_s."""
        self.seconds[stage] += seconds

    def start_next_task(self, pixels: Pixels) -> None:
        """Go on with the result of the task that ended."""
        self.pixels, self.prepared, self.decoded = pixels, None, None
        self.task, self.step, self.stage = self.task + 1, 0, Stage.WAITING
