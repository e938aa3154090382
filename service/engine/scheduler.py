"""Which trajectories run in the next UNet call. It knows shapes and ages, no tensors' content."""

from collections import deque

import torch

from service.engine.trajectory import Stage, Trajectory


class Scheduler:
    """Waiting trajectories in order of arrival, running ones up to `max_batch_size` in all."""

    def __init__(self, max_batch_size: int) -> None:
        self.max_batch_size = max_batch_size
        self._waiting: deque[Trajectory] = deque()
        self._running: list[Trajectory] = []
        self._clock = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def add(self, trajectory: Trajectory) -> None:
        trajectory.last_scheduled = self._clock
        self._waiting.append(trajectory)

    def remove(self, edit_id: str) -> None:
        """Forget an edit; nothing happens if it is not here."""
        self._waiting = deque(t for t in self._waiting if t.edit.id != edit_id)
        self._running = [t for t in self._running if t.edit.id != edit_id]

    def admit(self) -> list[Trajectory]:
        """Running trajectories that must be prepared, after filling free places from the queue."""
        while self._waiting and len(self._running) < self.max_batch_size:
            self._running.append(self._waiting.popleft())
        return [t for t in self._running if t.stage is Stage.WAITING]

    def schedule(self) -> list[Trajectory]:
        """Every row of the latent shape that has waited longest: any plugins, any steps."""
        self._clock += 1
        ready = [t for t in self._running if t.stage is Stage.DENOISING]
        if not ready:
            return []
        shape: torch.Size = min(ready, key=lambda t: t.last_scheduled).latent_shape
        batch = [t for t in ready if t.latent_shape == shape]
        for trajectory in batch:
            trajectory.last_scheduled = self._clock
        return batch
