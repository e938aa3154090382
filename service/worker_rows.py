"""A worker's rows: what it holds of each claimed job, and the pictures kept between two tasks."""

import asyncio
import io
import random
from dataclasses import dataclass, field

import numpy as np

from service.engine.updates import TaskDone
from service.images import Photo, Pixels
from service.jobs import JobStatus, Plan, Timings
from service.queue_records import Checkpoint, Claim

MAX_BACKOFF_S = 1.0
REMEMBERED = 0.99  # of the pace, from one step to the next


@dataclass
class Row:
    """A claimed job on its way through the worker."""

    claim: Claim
    timings: Timings
    photo: Photo = field(init=False)  # once it is read
    num_previews: int = 0  # that were shown
    is_lost: bool = False  # taken over, canceled or expired: leave it alone
    is_ending: bool = False  # its end is being written
    status: JobStatus | None = JobStatus.SUCCEEDED  # how it ends; None: another attempt follows
    code: str = "ok"  # or that of its error

    @property
    def id(self) -> str:
        """Of its edit. A job that this worker loses and wins again is another row."""
        return f"{self.claim.job.id}.{self.claim.delivery}"

    @property
    def plugins(self) -> tuple[str, ...]:
        return (self.claim.job.plan or Plan()).runnable

    @property
    def num_done(self) -> int:
        """Tasks that a former attempt has finished."""
        return self.claim.checkpoint.num_tasks if self.claim.checkpoint else 0

    def measure(self, **seconds: float) -> None:
        self.timings = self.timings.model_copy(update=seconds)


def checkpoint_of(done: TaskDone) -> Checkpoint:
    """Lossless, so that a resumed job ends with the same picture."""
    buffer = io.BytesIO()
    np.save(buffer, done.pixels, allow_pickle=False)
    return Checkpoint(done.task, buffer.getvalue(), done.versions)


def pixels_of(checkpoint: Checkpoint) -> Pixels:
    """The picture that the next task starts from."""
    pixels: Pixels = np.load(io.BytesIO(checkpoint.picture), allow_pickle=False)
    return pixels


class Pace:
    """How fast the engine is, as its last edits were: a moving average."""

    def __init__(self) -> None:
        self.step_s_per_mpx: float | None = None
        self._pixel_steps, self._busy_s = 0.0, 0.0

    @property
    def pixel_steps_per_s(self) -> float | None:
        return self._pixel_steps / self._busy_s if self._pixel_steps else None

    def observe_step(self, pixels: int, seconds: float) -> None:
        """One engine step that advanced rows of together `pixels`, all that it did counted."""
        self._pixel_steps = REMEMBERED * self._pixel_steps + pixels
        self._busy_s = REMEMBERED * self._busy_s + seconds

    def observe(self, timings: Timings, shape: tuple[int, int], num_steps: int) -> None:
        """An edit of (height, width) pixels that took `num_steps` steps here."""
        seconds = timings.prepare_s + timings.denoise_s + timings.finish_s
        pace = 1e6 * seconds / (shape[0] * shape[1] * max(1, num_steps))
        before = pace if self.step_s_per_mpx is None else self.step_s_per_mpx
        self.step_s_per_mpx = before + 0.2 * (pace - before)


class Backoff:
    """Growing pauses with jitter, for as long as Redis is away."""

    def __init__(self) -> None:
        self._pause_s = 0.05

    def reset(self) -> None:
        self._pause_s = 0.05

    async def sleep(self) -> None:
        await asyncio.sleep(self._pause_s * random.uniform(0.5, 1.0))
        self._pause_s = min(MAX_BACKOFF_S, 2 * self._pause_s)
