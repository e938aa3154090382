"""A real worker process around an engine that does what the picture says. No networks.

A step of DEADLY ends the process, one of BROKEN raises, one of slow(n) blocks for n s. The result
is filled with a number of the process that made it.
"""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from service import errors
from service.engine.edit import Edit
from service.engine.updates import EditDone, EditFailed, StepDone, Update
from service.images import ImageLimits, encode
from service.job_queue import JobQueue, QueueSettings
from service.jobs import Progress, Timings
from service.models.residency import Residency
from service.plugin_manifest import Published
from service.settings import Settings
from service.signals import stop_on_signals
from service.worker import Worker, WorkerSettings

FIRST_SLOW, LAST_SLOW = 100, 160


def filled(value: int) -> bytes:
    return encode(np.full((16, 16, 3), value, dtype=np.uint8), "png")


GOOD, DEADLY, BROKEN = filled(200), filled(0), filled(1)


def slow(seconds: int) -> bytes:
    """A picture whose one step takes that long."""
    assert 0 < seconds <= LAST_SLOW - FIRST_SLOW
    return filled(FIRST_SLOW + seconds)


def mark_of(pid: int) -> int:
    return pid % 256


class ScriptedEngine:
    residency = Residency()
    device_memory: Mapping[str, int] = MappingProxyType({})
    edit_memory: Mapping[str, int] = MappingProxyType({})
    num_short_of_memory = 0
    num_padding_rows = 0
    plugins = ("derain",)
    versions = MappingProxyType({"derain": "1.0.0"})

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.edits: dict[str, Edit] = {}

    @property
    def num_free_slots(self) -> int:
        return self.num_slots - len(self.edits)

    @property
    def has_work(self) -> bool:
        return bool(self.edits)

    def follow(self, published: Published) -> dict[str, str]:
        return {}

    def add(self, edit: Edit) -> None:
        self.edits[edit.id] = edit

    def abort(self, edit_id: str) -> None:
        self.edits.pop(edit_id, None)

    def step(self) -> list[Update]:
        """One step is all that an edit takes."""
        edits, self.edits = self.edits, {}
        return [update for edit in edits.values() for update in self._finish(edit)]

    def _finish(self, edit: Edit) -> list[Update]:
        value = int(edit.pixels[0, 0, 0])
        if value == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if value == 1:
            return [EditFailed(edit.id, errors.EditFailed("task 'derain' failed: no such step"))]
        if FIRST_SLOW < value <= LAST_SLOW:
            time.sleep(value - FIRST_SLOW)
        progress = Progress(plugin="derain", task=1, num_tasks=1, step=1, num_steps=1)
        result = np.full(edit.pixels.shape, mark_of(os.getpid()) / 255, np.float32)
        return [StepDone(edit.id, progress), EditDone(edit.id, result, Timings(denoise_s=0.1))]


def serve_scripted(settings: Settings) -> None:
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    queue = JobQueue.connect(settings.redis_url, QueueSettings.from_settings(settings))
    limits = ImageLimits(max_bytes=10**6, max_pixels=10**6, min_side=8)
    name = f"worker-{socket.gethostname()}-{os.getpid()}-scripted"
    worker_settings = WorkerSettings(name, "scripted", "cpu", limits)
    worker = Worker(queue, ScriptedEngine(settings.max_batch_size), worker_settings)
    stop_on_signals(worker.stop)
    await worker.run()
    await queue.close()
