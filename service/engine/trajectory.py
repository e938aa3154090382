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
from service.engine.edit import Edit
from service.engine.large_photo import LargePhoto
from service.engine.memory_budget import Demand
from service.engine.sampling import SamplerState, StepTable
from service.engine.side_stream import Mark
from service.engine.sizes import brought_back, enlarged, reduced
from service.images import Pixels, UnitPixels
from service.jobs import Progress, Timings


class Stage(Enum):
    WAITING = auto()  # its current task is not prepared
    DENOISING = auto()
    DENOISED = auto()  # to be decoded
    DECODED = auto()  # to be handed out
    TILING = auto()  # the overview of a large photo is restored, its tiles are not


@dataclass
class Prepared:
    """Everything a task's steps need, computed ahead: most steps touch no plugin weight."""

    mark: Mark  # past once all of it is computed
    table: StepTable
    shifts: list[tuple[int, int]]  # in pixels; one of V views each, a row of the batch
    context: Tensor  # (1, N, E): every cross-attention's keys and values of the tokens
    complements: Complements
    state: SamplerState  # of (V, C, h, w), when it last entered or left a batch
    renoised: dict[int, Tensor] = field(default_factory=dict)  # by step: what its sample becomes
    deep: Tensor | None = None  # what the feature cache, if there is one, keeps (V, C', h', w')


@dataclass
class Decoded:
    """A restored image (H, W, 3) in [0, 1] on its way from the device."""

    mark: Mark  # past once it is there
    image: Tensor


@dataclass
class Trajectory:
    """Mutable state of an edit; the scheduler orders it, the runner advances it."""

    edit: Edit
    input: Pixels  # of the current task
    max_pixels: int  # of one call; a larger photo is restored in tiles
    versions: Mapping[str, str]  # of its plugins, to its end
    task: int = 0
    num_halvings: int = 0  # how often memory ran out
    step: int = 0
    num_steps_done: int = 0  # of all tasks
    stage: Stage = Stage.WAITING
    prepared: Prepared | None = None
    decoded: Decoded | None = None
    last_scheduled: int = 0  # number of the engine step that last ran it
    demand: Demand = Demand()  # of memory
    num_overtaken: int = 0  # by edits that came later and needed less memory
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    pixels: Pixels = field(init=False)  # the input in a size that the networks take
    large: LargePhoto | None = field(init=False)  # if `pixels` is only its overview

    def __post_init__(self) -> None:
        self._fit()

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
    def num_rows(self) -> int:
        """Of a batch: one for each view."""
        return len(self.current.shifts)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of `pixels`."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def is_last_task(self) -> bool:
        return self.task + 1 == len(self.edit.plugins)

    @property
    def is_leaving(self) -> bool:
        """At most two denoising steps of the whole edit are left."""
        if self.large or self.prepared is None or not self.is_last_task:
            return False
        return self.step + 2 >= len(self.current.table)

    @property
    def progress(self) -> Progress:
        """Of a large photo: how many calls of its tiles are done."""
        tiles = self.large and self.large.task
        step, num_steps = tiles.progress if tiles else (self.step, len(self.current.table))
        return Progress(
            plugin=self.plugin_name,
            task=self.task + 1,
            num_tasks=len(self.edit.plugins),
            step=step,
            num_steps=num_steps,
        )

    @property
    def is_preview_due(self) -> bool:
        """The step that was just done passed one of the marks that part the way evenly.

        Never of a large photo, whose steps here are those of its overview.
        """
        if self.large or self.prepared is None:
            return False
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
        self.input, self.task = pixels, self.task + 1
        self._fit()

    @property
    def can_be_smaller(self) -> bool:
        """Once; whoever runs out of memory again has too little of it."""
        return self.num_halvings == 0

    def restart_in_tiles(self) -> None:
        """Do the present task as that of a large photo, whatever its size."""
        height, width = self.input.shape[:2]
        self.max_pixels = min(self.max_pixels, height * width // 2)
        self._fit()

    def restart_smaller(self) -> None:
        """Do the present task once more, in tiles of half the side."""
        self.num_halvings += 1
        height, width = self.input.shape[:2]
        self.max_pixels = min(self.max_pixels, height * width) // 2
        self._fit()

    def result_of(self, restored: UnitPixels) -> UnitPixels:
        """What was made of `pixels`, in the size of the task's input."""
        if self.large or self.pixels is self.input:
            return restored
        return brought_back(self.input, self.pixels, restored)

    def _fit(self) -> None:
        """To the start of a task."""
        self.prepared, self.decoded, self.step, self.stage = None, None, 0, Stage.WAITING
        height, width = self.input.shape[:2]
        if height * width > self.max_pixels:
            self.large = LargePhoto(self.input, self.num_halvings)
            self.pixels = reduced(self.input, self.max_pixels // 2)
        else:
            self.large, self.pixels = None, enlarged(self.input)
