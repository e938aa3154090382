"""The selector role on a real queue: plans handed on, no-ops ended, failures kept apart."""

import asyncio
import time
from collections.abc import AsyncIterator
from types import MappingProxyType

import numpy as np
import pytest

from service.images import Pixels, encode
from service.job_queue import JobQueue, Stage
from service.jobs import EditRequest, Job, JobStatus, Plan, PlannedTask
from service.plugin_manifest import Published
from service.selector.process import SelectorProcess
from service.settings import Settings

IMAGE = encode(np.zeros((32, 32, 3), np.uint8), "png")


class WordPlanner:
    """Plans by one word of the instruction, so that the process is tested alone."""

    plugins = ("derain",)
    versions = MappingProxyType({"derain": "1.0.0"})
    reads_images = True
    published = Published()

    def plan(self, pixels: Pixels | None, instruction: str) -> Plan:
        assert pixels is not None
        if "slowly" in instruction:
            time.sleep(0.7)  # several leases
        if "crash" in instruction:
            raise RuntimeError("out of luck")
        tasks = (PlannedTask(plugin="derain", score=0.9),) if "rain" in instruction else ()
        return Plan(tasks=tasks)


@pytest.fixture
async def selector(queue: JobQueue) -> AsyncIterator[SelectorProcess]:
    process = SelectorProcess(queue, WordPlanner(), Settings(heartbeat_s=0.05))  # type: ignore[arg-type]
    stop = asyncio.Event()
    running = asyncio.create_task(process.run(stop))
    yield process
    stop.set()
    await asyncio.wait_for(running, 5)


async def submit(queue: JobQueue, instruction: str, image: bytes = IMAGE, **options: bool) -> Job:
    request = EditRequest(instruction=instruction, **options)  # type: ignore[arg-type]
    return await queue.submit(Job(request=request), image)


async def test_a_plan_is_handed_on_to_the_workers(
    queue: JobQueue, selector: SelectorProcess
) -> None:
    job = await submit(queue, "remove the rain")
    claims = await queue.claim(Stage.RUN, "worker", 1, 5)
    assert [claim.job.id for claim in claims] == [job.id]
    planned = claims[0].job
    assert planned.plan is not None and planned.plan.runnable == ("derain",)
    assert planned.timings.plan_s > 0


async def test_nothing_to_do_returns_the_image_untouched(
    queue: JobQueue, selector: SelectorProcess
) -> None:
    job = await queue.wait((await submit(queue, "hello")).id, 5)
    assert (job.status, job.no_op, job.result_type) == (JobStatus.SUCCEEDED, True, "image/png")
    assert job.plan is not None and job.plan.tasks == ()
    assert await queue.result_of(job.id) == IMAGE


async def test_only_the_plan_ends_with_the_plan(queue: JobQueue, selector: SelectorProcess) -> None:
    job = await queue.wait((await submit(queue, "remove the rain", plan_only=True)).id, 5)
    assert job.plan is not None and job.plan.runnable == ("derain",)
    assert not job.no_op


async def test_planning_longer_than_a_lease_is_not_taken_over(
    queue: JobQueue, selector: SelectorProcess
) -> None:
    job = await submit(queue, "slowly remove the rain")
    async with asyncio.timeout(5):
        while (await queue.get(job.id)).status is not JobStatus.PLANNING:
            await asyncio.sleep(0.01)
        while not (claims := await queue.claim(Stage.RUN, "worker")):
            assert await queue.claim(Stage.PLAN, "thief", 1, 0.02) == []
    assert [claim.job.id for claim in claims] == [job.id]


async def test_a_failing_job_fails_alone(queue: JobQueue, selector: SelectorProcess) -> None:
    broken = await submit(queue, "crash")
    unreadable = await submit(queue, "remove the rain", image=b"no picture")
    fine = await submit(queue, "hello")
    failed = await queue.wait(broken.id, 5)
    assert failed.error is not None and "out of luck" in failed.error.detail
    assert failed.attempt == queue.settings.max_deliveries
    refused = await queue.wait(unreadable.id, 5)
    assert refused.error is not None and refused.error.code == "unsupported_image_type"
    assert (await queue.wait(fine.id, 5)).status is JobStatus.SUCCEEDED


async def test_it_tells_that_it_lives_and_leaves_in_order(queue: JobQueue) -> None:
    process = SelectorProcess(queue, WordPlanner(), Settings(heartbeat_s=0.05))  # type: ignore[arg-type]
    stop = asyncio.Event()
    running = asyncio.create_task(process.run(stop))
    async with asyncio.timeout(5):
        while not (alive := await queue.workers()):
            await asyncio.sleep(0.01)
    assert (alive[0].role, alive[0].plugins) == ("selector", ("derain",))
    stop.set()
    await asyncio.wait_for(running, 5)
    assert await queue.workers() == []
