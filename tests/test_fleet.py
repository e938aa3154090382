"""Real worker processes on a real Redis: killed, frozen, blocked. Every job ends once."""

import asyncio
import io
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loadtests.chaos import Load, run_chaos
from loadtests.chaos_jobs import write_store
from loadtests.fleet import Fleet
from service.engine.engine import build_engine
from service.engine.trajectory import Edit
from service.engine.updates import EditDone
from service.images import encode
from service.job_queue import JobQueue, QueueSettings
from service.jobs import EditRequest, Job, JobStatus, Plan, PlannedTask
from service.queue_letters import DeadLetters
from service.redis_server import PrivateRedis
from service.settings import Settings
from tests.scripted_worker import BLOCK_S, DEADLY, GOOD, SLOW, mark_of, serve_scripted
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin

TIMEOUT_S = 100.0
LEASE_S = 1.0

# The first test also waits for torch to be loaded, once for all processes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return Settings(
        redis_url=redis_url, key_prefix="test", lease_s=LEASE_S, heartbeat_s=0.2,
        max_batch_size=4, num_threads=1, device="cpu", base=BASE, min_image_side=8,
    )  # fmt: skip


@pytest.fixture
async def queue(settings: Settings) -> AsyncIterator[JobQueue]:
    queue = JobQueue.connect(settings.redis_url, QueueSettings.from_settings(settings))
    yield queue
    await queue.close()


async def submit(
    queue: JobQueue, image: bytes, plugins: tuple[str, ...] = ("derain",), steps: int | None = None
) -> str:
    plan = Plan(tasks=tuple(PlannedTask(plugin=name) for name in plugins), source="request")
    request = EditRequest(plugins=plugins, steps=steps, seed=5)
    job = Job(request=request, plan=plan, deadline_at=time.time() + TIMEOUT_S)
    return (await queue.submit(job, image)).id


async def until(queue: JobQueue, job_id: str, has_come: Callable[[Job], object]) -> Job:
    async with asyncio.timeout(TIMEOUT_S):
        while not has_come(job := await queue.get(job_id)):
            assert not job.status.is_final, job
            await asyncio.sleep(0.02)
    return job


async def mark_on(queue: JobQueue, job_id: str) -> int:
    with Image.open(io.BytesIO(await queue.result_of(job_id))) as result:
        return int(np.asarray(result)[0, 0, 0])


async def test_a_job_that_ends_its_workers_is_given_up_and_costs_nobody_else(
    queue: JobQueue, settings: Settings
) -> None:
    with Fleet(settings, 2, serve_scripted) as fleet:
        bad_id = await submit(queue, DEADLY)
        good_ids = [await submit(queue, GOOD) for _ in range(50)]
        num_deaths = 0
        async with asyncio.timeout(TIMEOUT_S):
            while not all([(await queue.get(i)).status.is_final for i in (bad_id, *good_ids)]):
                num_deaths += fleet.replace_dead()
                await asyncio.sleep(0.05)
    assert num_deaths == settings.max_deliveries == 3
    assert [(await queue.get(i)).status for i in good_ids] == 50 * [JobStatus.SUCCEEDED]
    assert (await queue.get(bad_id)).status is JobStatus.FAILED
    [letter] = await DeadLetters(queue).all()
    assert (letter.job, letter.attempts) == (bad_id, 3)


async def test_a_step_of_several_leases_is_not_stolen(queue: JobQueue, settings: Settings) -> None:
    assert BLOCK_S >= 3 * LEASE_S
    with Fleet(settings, 2, serve_scripted):
        job = await queue.wait(await submit(queue, SLOW), TIMEOUT_S)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)


async def test_a_frozen_worker_changes_nothing_when_it_wakes(
    queue: JobQueue, settings: Settings
) -> None:
    with Fleet(settings, 2, serve_scripted) as fleet:
        job_id = await submit(queue, SLOW)
        first = await until(queue, job_id, lambda job: job.status is JobStatus.RUNNING)
        assert first.worker is not None
        frozen = fleet.process_of(first.worker)
        fleet.send(first.worker, signal.SIGSTOP)
        ended = await queue.wait(job_id, TIMEOUT_S)
        assert (ended.status, ended.attempt) == (JobStatus.SUCCEEDED, 2)
        assert ended.worker is not None and ended.worker != first.worker
        fleet.send(first.worker, signal.SIGCONT)
        fleet.send(first.worker, signal.SIGTERM)  # it finishes what it thinks is its own, and ends
        await asyncio.to_thread(frozen.join, TIMEOUT_S)
        assert frozen.exitcode == 0
        mark = mark_of(fleet.process_of(ended.worker).pid)
    assert await queue.get(job_id) == ended
    assert await mark_on(queue, job_id) == mark


async def test_a_job_goes_on_at_the_task_that_was_interrupted(
    queue: JobQueue, settings: Settings, tmp_path: Path
) -> None:
    names, steps = ("derain", "desnow", "dehaze"), 40
    write_tiny_base(tmp_path)
    for seed, name in enumerate(names):
        write_tiny_plugin(tmp_path, name, seed)
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with Fleet(settings.model_copy(update={"plugins_store": tmp_path}), 1) as fleet:
        job_id = await submit(queue, encode(pixels, "png"), names, steps)
        await until(queue, job_id, lambda job: job.progress and job.progress.task == 2)
        fleet.kill(fleet.processes[0])
        fleet.replace_dead()
        job = await queue.wait(job_id, TIMEOUT_S)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 2)
    events = [event async for _, event in queue.watch(job_id)]
    tasks = {e.progress.task for e in events if e.progress and e.attempt == 2}
    assert tasks == {2, 3}
    engine = build_engine(tmp_path, BASE, "cpu", num_threads=1)
    engine.add(Edit("alone", pixels, names, steps, seed=5))
    alone = None
    while engine.has_work:
        alone = next((u.pixels for u in engine.step() if isinstance(u, EditDone)), None)
    with Image.open(io.BytesIO(await queue.result_of(job_id))) as result:
        np.testing.assert_array_equal(np.asarray(result), alone)


async def test_no_job_is_lost_doubled_or_stuck_while_everything_is_killed(tmp_path: Path) -> None:
    load = Load(num_jobs=200, seconds=15.0, kill_every_s=3.0, timeout_s=TIMEOUT_S, lease_s=1.0)
    write_store(tmp_path)
    with PrivateRedis(is_durable=True) as redis:
        report = await run_chaos(load, redis, tmp_path)
    outcome, kills = report.outcome, report.kills
    assert outcome.is_good, report
    assert outcome.succeeded + outcome.failed == outcome.jobs == 200
    assert kills.worker_kills >= 4 and outcome.retried > 0, report
    assert (kills.selector_kills, kills.redis_kills) == (2, 1), report
