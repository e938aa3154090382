"""The engine: edits of any plugins at any steps share UNet calls, one call per step().

It runs in a notebook as well as in a worker: it knows no queue, no HTTP and no files but weights.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from service import errors
from service.engine.model_runner import ModelRunner
from service.engine.scheduler import Scheduler
from service.engine.trajectory import Edit, Stage, Trajectory
from service.engine.updates import BatchDone, EditDone, EditFailed, StepDone, TaskDone, Update
from service.models.backbone import Backbone, pick_device
from service.models.plugin_store import PluginStore

log = logging.getLogger(__name__)


class Engine:
    """add() edits at any time, then call step() until has_work is false."""

    def __init__(self, runner: ModelRunner, max_batch_size: int) -> None:
        self.runner = runner
        self.scheduler = Scheduler(max_batch_size)

    @property
    def has_work(self) -> bool:
        return len(self.scheduler) > 0

    @property
    def num_free_slots(self) -> int:
        return max(0, self.scheduler.max_batch_size - len(self.scheduler))

    @property
    def backbone(self) -> Backbone:
        return self.runner.backbone

    @property
    def plugins(self) -> tuple[str, ...]:
        """Names of the resident plugins."""
        return self.runner.store.resident

    def add(self, edit: Edit) -> None:
        """Take an edit with at least one plugin; UnknownPlugin if one of them is not installed."""
        if not edit.plugins[edit.num_done :]:
            raise errors.InvalidRequest("an edit needs at least one plugin to run")
        for name in edit.plugins:
            self.runner.store.get(name)
        self.scheduler.add(Trajectory(edit, edit.pixels, task=edit.num_done))

    def abort(self, edit_id: str) -> None:
        """Drop an edit; it takes part in no further step."""
        self.scheduler.remove(edit_id)

    def step(self) -> list[Update]:
        """Admit what fits, advance one mixed batch by one denoising step, decode what is done."""
        updates: list[Update] = []
        for trajectory in self.scheduler.admit():
            updates += self._isolate(self.runner.prepare, trajectory)
        batch = self.scheduler.schedule()
        updates += self._denoise(batch)
        for trajectory in batch:
            if trajectory.stage is Stage.DENOISED:
                updates += self._isolate(self._finish_task, trajectory)
        return updates

    def _denoise(self, batch: list[Trajectory]) -> list[Update]:
        """One UNet call; if it fails, half the rows at a time, so only the guilty one fails."""
        if not batch:
            return []
        try:
            seconds = self.runner.denoise(batch)
        except Exception as error:
            if len(batch) == 1:
                return [self._fail(batch[0], error)]
            log.warning("a batch of %d rows failed and is split: %s", len(batch), error)
            half = len(batch) // 2
            return self._denoise(batch[:half]) + self._denoise(batch[half:])
        done: list[Update] = [BatchDone(tuple(t.plugin_name for t in batch), seconds)]
        return done + [StepDone(t.edit.id, t.progress) for t in batch]

    def _finish_task(self, trajectory: Trajectory) -> Update | None:
        restored = self.runner.finish(trajectory)
        done = EditDone(trajectory.edit.id, restored, trajectory.timings)
        if not trajectory.is_last_task:
            trajectory.start_next_task(done.pixels)
            return TaskDone(trajectory.edit.id, trajectory.task, done.pixels)
        self.scheduler.remove(trajectory.edit.id)
        return done

    def _isolate(
        self, work: Callable[[Trajectory], Update | None], trajectory: Trajectory
    ) -> list[Update]:
        """Run `work`; what goes wrong fails this edit alone."""
        try:
            update = work(trajectory)
        except Exception as error:
            return [self._fail(trajectory, error)]
        return [update] if update is not None else []

    def _fail(self, trajectory: Trajectory, error: Exception) -> EditFailed:
        self.scheduler.remove(trajectory.edit.id)
        if isinstance(error, errors.DiffPluginError):
            return EditFailed(trajectory.edit.id, error)
        log.exception("edit %s failed", trajectory.edit.id, exc_info=error)
        reason = f"task {trajectory.plugin_name!r} failed: {type(error).__name__}: {error}"
        return EditFailed(trajectory.edit.id, errors.EditFailed(reason))


def build_engine(
    store: Path, base: str, device: str = "auto", max_batch_size: int = 8, num_threads: int = 0
) -> Engine:
    """An engine over plugins_store, every plugin of `base` resident; num_threads 0: torch's own."""
    if num_threads:
        torch.set_num_threads(num_threads)
    backbone = Backbone.load(store / base, pick_device(device))
    plugins = PluginStore(store, backbone)
    plugins.load_all()
    return Engine(ModelRunner(backbone, plugins), max_batch_size)
