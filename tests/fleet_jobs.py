"""What the tests of a fleet share: settings, jobs with named plugins, and waiting for them."""

import asyncio
import io
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from service.job_queue import JobQueue
from service.jobs import EditRequest, Job, Plan, PlannedTask
from service.settings import Settings
from tests.tiny_base import BASE

TIMEOUT_S = 100.0
LEASE_S = 1.0


def fleet_settings(redis_url: str, **changes: object) -> Settings:
    values = {
        "redis_url": redis_url, "key_prefix": "test", "lease_s": LEASE_S, "heartbeat_s": 0.2,
        "max_batch_size": 4, "num_threads": 1, "device": "cpu", "base": BASE, "min_image_side": 8,
        "retry_backoff_s": 0.1, **changes,
    }  # fmt: skip
    return Settings.model_validate(values)


async def submit(
    queue: JobQueue,
    image: bytes,
    plugins: tuple[str, ...] = ("derain",),
    steps: int | None = None,
    timeout_s: float = TIMEOUT_S,
) -> str:
    plan = Plan(tasks=tuple(PlannedTask(plugin=name) for name in plugins), source="request")
    request = EditRequest(plugins=plugins, steps=steps, seed=5)
    job = Job(request=request, plan=plan, deadline_at=time.time() + timeout_s)
    return (await queue.submit(job, image)).id


async def until(queue: JobQueue, job_id: str, has_come: Callable[[Job], object]) -> Job:
    async with asyncio.timeout(TIMEOUT_S):
        while not has_come(job := await queue.get(job_id)):
            assert not job.status.is_final, job
            await asyncio.sleep(0.02)
    return job


async def mark_on(queue: JobQueue, job_id: str) -> int:
    """The number that a scripted worker leaves on its results."""
    return int((await pixels_of(queue, job_id))[0, 0, 0])


async def pixels_of(queue: JobQueue, job_id: str) -> np.ndarray:
    with Image.open(io.BytesIO(await queue.result_of(job_id))) as result:
        return np.asarray(result)
