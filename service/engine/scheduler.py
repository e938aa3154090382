"""Which trajectories run in the next UNet call. It knows shapes and ages, no tensors' content."""

from collections import deque
from collections.abc import Sequence
from itertools import accumulate

import torch

from service.engine.memory_budget import MemoryBudget, needed_bytes
from service.engine.trajectory import Stage, Trajectory

MAX_OVERTAKEN = 8  # edits of less memory that may begin before one that waits for it
MIN_FILL = 0.75  # of a bucket; below it, padding would cost more than a row that waits a step


class Scheduler:
    """Waiting trajectories in order of arrival, running ones up to `max_batch_size` in all.

    `buckets`: numbers of rows that a call is padded to, ascending; none: any number. Full passes
    at every `cache_interval`-th step of an edit never share a call with shallow ones.
    """

    def __init__(
        self, max_batch_size: int, buckets: Sequence[int] = (), cache_interval: int = 1
    ) -> None:
        self.budget: MemoryBudget | None = None  # of what runs together
        self.max_batch_size, self._buckets = max_batch_size, buckets
        self._cache_interval = cache_interval
        self._waiting: deque[Trajectory] = deque()
        self._running: list[Trajectory] = []
        self._clock = 0
        self.num_short_of_memory = 0  # of those that wait, when last looked at

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def add(self, trajectory: Trajectory) -> None:
        trajectory.last_scheduled = self._clock
        self._waiting.append(trajectory)

    def remove(self, edit_id: str) -> list[Trajectory]:
        """Forget an edit; returns what was here of it."""
        removed = [t for t in (*self._waiting, *self._running) if t.edit.id == edit_id]
        self._waiting = deque(t for t in self._waiting if t.edit.id != edit_id)
        self._running = [t for t in self._running if t.edit.id != edit_id]
        return removed

    def admit(self) -> list[Trajectory]:
        """Running trajectories that must be prepared, after filling free places from the queue."""
        self.num_short_of_memory = 0
        while len(self._running) < self.max_batch_size and (chosen := self._next()):
            self._waiting = deque(t for t in self._waiting if t is not chosen)
            self._running.append(chosen)
        return self._in(Stage.WAITING)

    def schedule(self) -> list[Trajectory]:
        """Rows of the kind of call that has waited longest: any plugins, any steps."""
        self._clock += 1
        denoising = self._in(Stage.DENOISING)
        if not denoising:
            return []
        ready = [t for t in denoising if t.current.mark.is_past] or denoising[:1]
        kind = self._kind(min(ready, key=lambda t: t.last_scheduled))
        batch = self._fill([t for t in ready if self._kind(t) == kind])
        for trajectory in batch:
            trajectory.last_scheduled = self._clock
        return batch

    def _kind(self, trajectory: Trajectory) -> tuple[torch.Size, bool]:
        """Its latent shape, and whether it needs a full pass of the UNet."""
        return trajectory.latent_shape, trajectory.step % self._cache_interval == 0

    def _fill(self, batch: list[Trajectory]) -> list[Trajectory]:
        """All, or, where much of their bucket would be padding, a full smaller one's longest."""
        num_rows = sum(t.num_rows for t in batch)
        above = next((size for size in self._buckets if size >= num_rows), num_rows)
        if num_rows >= MIN_FILL * above:
            return batch
        below = max(size for size in self._buckets if size <= num_rows)
        longest = sorted(batch, key=lambda t: t.last_scheduled)
        ends = list(accumulate(t.num_rows for t in longest))
        return longest[: max(1, sum(end <= below for end in ends))]

    @property
    def num_leaving(self) -> int:
        """Edits that the next two steps end, if they have them all."""
        return sum(t.is_leaving for t in self._running)

    @property
    def is_denoising(self) -> bool:
        return any(t.stage is Stage.DENOISING for t in self._running)

    def denoised(self) -> list[Trajectory]:
        """Those to be decoded."""
        return self._in(Stage.DENOISED)

    def decoded(self) -> list[Trajectory]:
        """Those whose image is there; the first of them all the same if nothing else is to do."""
        decoded = self._in(Stage.DECODED)
        there = [t for t in decoded if t.decoded and t.decoded.mark.is_past]
        return there or ([] if self.is_denoising else decoded[:1])

    def tiling(self) -> list[Trajectory]:
        """The large photo whose tiles run, if there is one."""
        return self._in(Stage.TILING)[:1]

    @property
    def needed_bytes(self) -> int:
        """Of what runs, at most."""
        return needed_bytes(t.demand for t in self._running)

    def _next(self) -> Trajectory | None:
        """First come, first served. But a large photo waits until no other one runs, and what has
        no memory yet lets some pass that have.
        """
        is_taken = any(t.large for t in self._running)
        short: list[Trajectory] = []
        for trajectory in self._waiting:
            if is_taken and trajectory.large:
                continue
            if self._fits(trajectory):
                for passed in short:
                    passed.num_overtaken += 1
                return trajectory
            short.append(trajectory)
            self.num_short_of_memory = len(short)
            if trajectory.num_overtaken >= MAX_OVERTAKEN:
                return None
        return None

    def _fits(self, trajectory: Trajectory) -> bool:
        """Beside those that run; alone it always does, or it would have been refused."""
        if self.budget is None or not self._running:
            return True
        return self.budget.fits(t.demand for t in (*self._running, trajectory))

    def _in(self, stage: Stage) -> list[Trajectory]:
        return [t for t in self._running if t.stage is stage]
