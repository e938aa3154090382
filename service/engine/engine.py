"""The engine: edits of any plugins at any steps share UNet calls, one call per step().

It runs in a notebook as well as in a worker: it knows no queue, no HTTP and no files but weights.
"""

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from service import errors
from service.engine.admission import Admission
from service.engine.bucketed_step import BUCKETS
from service.engine.edit import Edit
from service.engine.memory_budget import MemoryBudget
from service.engine.memory_costs import measured_budget
from service.engine.model_runner import ModelRunner
from service.engine.preset import choose_preset
from service.engine.scheduler import Scheduler
from service.engine.trajectory import Trajectory
from service.engine.updates import (
    BatchDone,
    EditDone,
    EditFailed,
    PreviewDone,
    StepDone,
    TaskDone,
    Update,
)
from service.images import UnitPixels
from service.models.backbone import Backbone, pick_device
from service.models.int8_linears import quantise_linears
from service.models.plugin_store import PluginStore
from service.models.residency import Residency
from service.plugin_manifest import PluginManifest, Published
from service.settings import PresetName

log = logging.getLogger(__name__)

Work = Callable[[list[Trajectory]], list[Update]]

MAX_WHOLE_PIXELS = 1_500_000  # larger photos are restored in tiles, after their overview
MAX_STALL = 0.5  # of a denoising step, for admitting and again for decoding between two steps


class Engine:
    """add() edits at any time, then call step() until has_work is false."""

    def __init__(
        self, runner: ModelRunner, max_batch_size: int, max_whole_pixels: int = MAX_WHOLE_PIXELS
    ) -> None:
        self.runner, self.max_whole_pixels = runner, max_whole_pixels
        buckets = BUCKETS if runner.pads_batches else ()
        self.scheduler = Scheduler(max_batch_size, buckets, runner.cache_interval)
        self._step_s = 0.0  # how long the last denoising step took
        self._admission: Admission | None = None

    @property
    def has_work(self) -> bool:
        return len(self.scheduler) > 0

    def limit_memory(self, share: float, max_bytes: int = 0) -> None:
        """Measure what edits cost, and run no more together than fit; for an idle engine.

        The budget is `max_bytes`, or, if that is 0, `share` of the memory that is free.
        """
        size = self.scheduler.max_batch_size
        self.limit_to(measured_budget(self.runner, self._run_all, size, share, max_bytes))

    def limit_to(self, budget: MemoryBudget | None) -> None:
        """Run no more together than fit; None: no limit."""
        self.scheduler.budget = budget
        self._admission = Admission(self.runner, budget) if budget else None

    def _run_all(self, edits: Sequence[Edit]) -> bool:
        """From start to end; False if one of them failed."""
        for edit in edits:
            self.add(edit)
        is_good = True
        while self.has_work:
            is_good &= not any(isinstance(update, EditFailed) for update in self.step())
        return is_good

    @property
    def num_free_slots(self) -> int:
        """For edits that are not here yet: places of those that leave meanwhile count as free.

        None while somebody waits for memory: what waits here, no other worker can take.
        """
        scheduler = self.scheduler
        if scheduler.num_short_of_memory:
            return 0
        return max(0, scheduler.max_batch_size - len(scheduler) + scheduler.num_leaving)

    @property
    def backbone(self) -> Backbone:
        return self.runner.backbone

    @property
    def plugins(self) -> tuple[str, ...]:
        """Names of the resident plugins."""
        return self.runner.store.resident

    @property
    def versions(self) -> Mapping[str, str]:
        """Of the plugins that new edits get."""
        return self.runner.store.versions

    @property
    def residency(self) -> Residency:
        """What became of the plugins' weights so far."""
        return self.runner.store.residency

    @property
    def num_padding_rows(self) -> int:
        """Rows in UNet calls so far that were nobody's."""
        return self.runner.num_padding_rows

    @property
    def edit_memory(self) -> dict[str, int]:
        """Bytes that running edits need at most, and may; nothing if they are not limited."""
        budget = self.scheduler.budget
        if budget is None:
            return {}
        return {"needed": self.scheduler.needed_bytes, "budget": budget.max_bytes}

    @property
    def num_short_of_memory(self) -> int:
        """Edits that have a place, but must wait for memory."""
        return self.scheduler.num_short_of_memory

    @property
    def device_memory(self) -> dict[str, int]:
        """Bytes of the GPU by kind: allocated, reserved and total; nothing on a CPU."""
        device = self.backbone.device
        if device.type != "cuda":
            return {}
        return {
            "allocated": torch.cuda.memory_allocated(device),
            "reserved": torch.cuda.memory_reserved(device),
            "total": torch.cuda.get_device_properties(device).total_memory,
        }

    def follow(self, published: Published) -> dict[str, str]:
        """Serve new edits with what was published; by name, why a plugin is not followed.

        It may run in another thread than step().
        """
        return self.runner.store.follow(published)

    def add(self, edit: Edit) -> None:
        """Take an edit with at least one plugin.

        UnknownPlugin if one of them is not installed, ImageTooLarge if memory can never do.
        """
        if not edit.plugins[edit.num_done :]:
            raise errors.InvalidRequest("an edit needs at least one plugin to run")
        names = edit.plugins[edit.num_done :]
        manifests = [self._expect(name, edit.versions.get(name)) for name in names]
        versions = dict(edit.versions) | {m.name: m.version for m in manifests}
        most = sys.maxsize if self.runner.preset.resizes_to_grid else self.max_whole_pixels
        pixels = self.runner.fitted(edit.pixels) if edit.resumed is None else edit.resumed
        trajectory = Trajectory(edit, pixels, most, versions, task=edit.num_done)
        if self._admission:
            self._admission.admit(trajectory, manifests)
        self.scheduler.add(trajectory)

    def _expect(self, name: str, version: str | None) -> PluginManifest:
        """Its weights at once, or, while others run, on their way beside them."""
        if self.has_work:
            return self.runner.store.prefetch(name, version)
        return self.runner.store.get(name, version).manifest

    def abort(self, edit_id: str) -> None:
        """Drop an edit; it takes part in no further step."""
        for trajectory in self.scheduler.remove(edit_id):
            self.runner.forget(trajectory)

    def step(self) -> list[Update]:
        """Admit what fits, advance one mixed batch by one denoising step, decode what is done."""
        admitted = [t for t in self.scheduler.admit() if not self._waits_for_weights(t)]
        updates = self._paced(self._prepare, admitted)
        batch = self.scheduler.schedule()
        updates += self._isolate(self._denoise, batch)
        updates += self._isolate(
            self._preview, [t for t in batch if t.prepared and t.is_preview_due]
        )
        updates += self._paced(self._decode, self.scheduler.denoised())
        for trajectory in self.scheduler.decoded():
            updates += self._isolate(self._finish_task, [trajectory])
        updates += self._isolate(self._advance_tiles, self.scheduler.tiling())
        return updates

    def _waits_for_weights(self, trajectory: Trajectory) -> bool:
        """Only while others denoise; else there is nothing better to do than to wait for them."""
        name = trajectory.plugin_name
        if not self.scheduler.is_denoising or name not in trajectory.versions:
            return False
        return self.runner.store.is_coming(name, trajectory.versions[name])

    def _prepare(self, trajectories: list[Trajectory]) -> list[Update]:
        self.runner.prepare(trajectories)
        return []

    def _denoise(self, batch: list[Trajectory]) -> list[Update]:
        self._step_s = self.runner.denoise(batch)
        names = tuple(t.plugin_name for t in batch)
        done: list[Update] = [BatchDone(names, self._step_s, self.scheduler.max_batch_size)]
        return done + [StepDone(t.edit.id, t.progress) for t in batch if not t.large]

    def _preview(self, trajectories: list[Trajectory]) -> list[Update]:
        return [
            PreviewDone(t.edit.id, t.progress, t.result_of(self.runner.preview(t)))
            for t in trajectories
        ]

    def _decode(self, trajectories: list[Trajectory]) -> list[Update]:
        self.runner.decode(trajectories)
        return []

    def _finish_task(self, trajectories: list[Trajectory]) -> list[Update]:
        (trajectory,) = trajectories
        restored = self.runner.finish(trajectory)
        if trajectory.large:
            self.runner.start_tiles(trajectory, restored)
            return []
        return self._end_task(trajectory, trajectory.result_of(restored))

    def _advance_tiles(self, trajectories: list[Trajectory]) -> list[Update]:
        (trajectory,) = trajectories
        restored = self.runner.advance_tiles(trajectory)
        if restored is None:
            return [StepDone(trajectory.edit.id, trajectory.progress)]
        return self._end_task(trajectory, restored)

    def _end_task(self, trajectory: Trajectory, restored: UnitPixels) -> list[Update]:
        t = trajectory
        done = EditDone(t.edit.id, restored, t.timings, t.num_steps_done, t.versions)
        if not trajectory.is_last_task:
            trajectory.start_next_task(done.pixels)
            return [TaskDone(trajectory.edit.id, trajectory.task, done.pixels, done.versions)]
        self.scheduler.remove(trajectory.edit.id)
        return [replace(done, restored=self.runner.in_photo_size(trajectory.edit, restored))]

    def _paced(self, work: Work, waiting: list[Trajectory]) -> list[Update]:
        """All at once if no step waits for it; else one by one, for half a step's time at most."""
        if not self.scheduler.is_denoising:
            return self._isolate(work, waiting)
        updates: list[Update] = []
        deadline = time.perf_counter() + MAX_STALL * self._step_s
        for trajectory in waiting:
            updates += self._isolate(work, [trajectory])
            if time.perf_counter() > deadline:
                break
        return updates

    def _isolate(self, work: Work, trajectories: list[Trajectory]) -> list[Update]:
        """Run `work`; if it fails, on half the trajectories at a time, so only the guilty fails."""
        if not trajectories:
            return []
        try:
            return work(trajectories)
        except Exception as error:
            if len(trajectories) == 1:
                return self._fail(trajectories[0], error)
            log.warning("a batch of %d edits failed and is split: %s", len(trajectories), error)
            half = len(trajectories) // 2
            return self._isolate(work, trajectories[:half]) + self._isolate(
                work, trajectories[half:]
            )

    def _fail(self, trajectory: Trajectory, error: Exception) -> list[Update]:
        """The edit leaves; where memory ran out, its task is first tried again in small pieces."""
        if is_out_of_memory(error) and trajectory.can_be_smaller:
            log.warning("edit %s ran out of memory and is tried smaller", trajectory.edit.id)
            self.runner.forget(trajectory)
            trajectory.restart_smaller()
            torch.cuda.empty_cache()
            return []
        self.abort(trajectory.edit.id)
        if isinstance(error, errors.DiffPluginError):
            return [EditFailed(trajectory.edit.id, error)]
        log.exception("edit %s failed", trajectory.edit.id, exc_info=error)
        reason = f"task {trajectory.plugin_name!r} failed: {type(error).__name__}: {error}"
        return [EditFailed(trajectory.edit.id, errors.EditFailed(reason))]


def is_out_of_memory(error: Exception) -> bool:
    """On a GPU, in numpy, or where torch's allocator of the CPU says so in words."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def build_engine(
    store: Path,
    base: str,
    device: str = "auto",
    max_batch_size: int = 8,
    num_threads: int = 0,
    max_whole_pixels: int = MAX_WHOLE_PIXELS,
    cache_interval: int = 1,
    compiles: bool = False,
    preset: PresetName = "default",
    max_plugin_bytes: int = 2**31,
    max_host_plugin_bytes: int = 2**33,
    int8: bool = False,
) -> Engine:
    """An engine over plugins_store, as many plugins resident as fit; num_threads 0: torch's own.

    `cache_interval`: of ModelRunner. `compiles`: torch.compile for the UNet, once per shape.
    `int8`: of the UNet's linear layers, lossy.
    """
    if num_threads:
        torch.set_num_threads(num_threads)
    backbone = Backbone.load(store / base, pick_device(device))
    plugins = PluginStore(store, backbone, max_plugin_bytes, max_host_plugin_bytes)
    plugins.load_all()
    if compiles:
        backbone.unet.compile(dynamic=False)
    chosen = choose_preset(preset, backbone.sources)
    runner = ModelRunner(backbone, plugins, cache_interval=cache_interval, preset=chosen)
    if int8:  # after the runner, which fuses some of them
        quantise_linears(backbone.unet)
    return Engine(runner, max_batch_size, max_whole_pixels)
