"""A real worker process around an engine that changes nothing, in steps of a set length.

DIFFPLUGIN_REDIS_URL=... python -m loadtests.paced_worker STEP_S NUM_STEPS NUM_SLOTS
"""

import asyncio
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import uvloop

from service.consumer_names import consumer_name
from service.engine.edit import Edit
from service.engine.updates import BatchDone, EditDone, StepDone, Update
from service.images import ImageLimits
from service.job_queue import JobQueue, QueueSettings
from service.jobs import Progress, Timings
from service.plugin_manifest import Published
from service.settings import Settings
from service.worker import Worker, WorkerSettings

PLUGIN = "derain"


@dataclass(frozen=True)
class NoWeights:
    """Residency of an engine without networks; importing the real one would take torch."""

    num_hits: int = 0
    num_host_hits: int = 0
    num_misses: int = 0
    num_evictions: int = 0
    load_s: float = 0.0
    resident_bytes: int = 0


class PacedEngine:
    """Every step takes `step_s` for all its edits together, as on a device that is not full."""

    plugins = (PLUGIN,)
    residency = NoWeights()
    device_memory: Mapping[str, int] = MappingProxyType({})
    edit_memory: Mapping[str, int] = MappingProxyType({})
    num_short_of_memory = 0
    num_padding_rows = 0

    def __init__(self, step_s: float, num_steps: int, num_slots: int) -> None:
        self._step_s, self._num_steps, self._num_slots = step_s, num_steps, num_slots
        self._edits: dict[str, Edit] = {}
        self._steps: dict[str, int] = {}

    @property
    def num_free_slots(self) -> int:
        """As the real engine has it: those with two steps left count as gone."""
        num_leaving = sum(
            self._steps[name] + 2 >= self._length_of(edit) for name, edit in self._edits.items()
        )
        return self._num_slots - len(self._edits) + num_leaving

    def _length_of(self, edit: Edit) -> int:
        return edit.steps or self._num_steps

    @property
    def has_work(self) -> bool:
        return bool(self._edits)

    @property
    def versions(self) -> Mapping[str, str]:
        return {PLUGIN: "1.0.0"}

    def follow(self, published: Published) -> Mapping[str, str]:
        return {}

    def add(self, edit: Edit) -> None:
        self._edits[edit.id], self._steps[edit.id] = edit, 0

    def abort(self, edit_id: str) -> None:
        self._edits.pop(edit_id, None)
        self._steps.pop(edit_id, None)

    def step(self) -> list[Update]:
        time.sleep(self._step_s)
        running = list(self._edits.values())[: self._num_slots]
        updates: list[Update] = [BatchDone((PLUGIN,) * len(running), self._step_s)]
        for edit in running:
            step = self._steps[edit.id] = self._steps[edit.id] + 1
            progress = Progress(
                plugin=PLUGIN, task=1, num_tasks=1, step=step, num_steps=self._length_of(edit)
            )
            updates.append(StepDone(edit.id, progress))
            if step == progress.num_steps:
                self.abort(edit.id)
                restored = edit.pixels.astype(np.float32) / 255
                updates.append(EditDone(edit.id, restored, Timings()))
        return updates


async def serve(settings: Settings, engine: PacedEngine) -> None:
    queue = JobQueue.connect(settings.redis_url, QueueSettings.from_settings(settings))
    limits = ImageLimits(
        settings.max_image_bytes, settings.max_image_pixels, settings.min_image_side
    )
    worker = Worker(queue, engine, WorkerSettings(consumer_name("worker"), "none", "cpu", limits))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    await worker.run()
    await queue.close()


if __name__ == "__main__":
    step_s, num_steps, num_slots = sys.argv[1:]
    engine = PacedEngine(float(step_s), int(num_steps), int(num_slots))
    uvloop.run(serve(Settings(), engine))
