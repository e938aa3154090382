"""Real worker processes on a real Redis: killed, frozen, blocked. Every job ends once."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from loadtests.chaos import Load, run_chaos
from loadtests.chaos_jobs import write_store
from loadtests.fleet import Fleet
from service.engine.edit import Edit
from service.engine.engine import build_engine
from service.engine.updates import EditDone
from service.images import encode
from service.job_queue import JobQueue, QueueSettings
from service.jobs import JobStatus
from service.queue_letters import DeadLetters
from service.redis_server import PrivateRedis
from service.settings import Settings
from tests.fleet_jobs import TIMEOUT_S, fleet_settings, mark_on, pixels_of, submit, until
from tests.scripted_worker import BROKEN, DEADLY, GOOD, mark_of, serve_scripted, slow
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin

# The first test also waits for torch to be loaded, once for all processes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Open = Callable[[Settings], Awaitable[JobQueue]]


@pytest.fixture
async def open_queue() -> AsyncIterator[Open]:
    queues: list[JobQueue] = []

    async def connect(settings: Settings) -> JobQueue:
        queues.append(JobQueue.connect(settings.redis_url, QueueSettings.from_settings(settings)))
        return queues[-1]

    yield connect
    for queue in queues:
        await queue.close()


@pytest.mark.parametrize("image", [DEADLY, BROKEN], ids=["ends its worker", "makes it raise"])
async def test_a_poison_job_is_given_up_and_costs_nobody_else(
    redis_url: str, open_queue: Open, image: bytes
) -> None:
    settings = fleet_settings(redis_url)
    queue = await open_queue(settings)
    with Fleet(settings, 2, serve_scripted) as fleet:
        bad_id = await submit(queue, image)
        good_ids = [await submit(queue, GOOD) for _ in range(50)]
        num_deaths = 0
        async with asyncio.timeout(TIMEOUT_S):
            while not all([(await queue.get(i)).status.is_final for i in (bad_id, *good_ids)]):
                num_deaths += fleet.replace_dead()
                await asyncio.sleep(0.05)
    assert num_deaths == (settings.max_deliveries if image == DEADLY else 0)
    assert [(await queue.get(i)).status for i in good_ids] == 50 * [JobStatus.SUCCEEDED]
    assert (await queue.get(bad_id)).status is JobStatus.FAILED
    [letter] = await DeadLetters(queue).all()
    assert (letter.job, letter.attempts) == (bad_id, 3)


@pytest.mark.parametrize(
    ("block_s", "lease_s"), [(4, 1.0), pytest.param(40, 15.0, marks=pytest.mark.full)]
)
async def test_a_step_of_several_leases_is_not_stolen(
    redis_url: str, open_queue: Open, block_s: int, lease_s: float
) -> None:
    settings = fleet_settings(redis_url, lease_s=lease_s)
    queue = await open_queue(settings)
    with Fleet(settings, 2, serve_scripted):
        began = time.monotonic()
        job = await queue.wait(await submit(queue, slow(block_s)), TIMEOUT_S)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)
    assert time.monotonic() - began >= block_s > 2 * lease_s


@pytest.mark.parametrize(
    ("frozen_s", "lease_s"), [(4.0, 1.0), pytest.param(60.0, 15.0, marks=pytest.mark.full)]
)
async def test_a_frozen_worker_changes_nothing_when_it_wakes(
    redis_url: str, open_queue: Open, frozen_s: float, lease_s: float
) -> None:
    settings = fleet_settings(redis_url, lease_s=lease_s)
    queue = await open_queue(settings)
    with Fleet(settings, 2, serve_scripted) as fleet:
        job_id = await submit(queue, slow(4))
        first = await until(queue, job_id, lambda job: job.status is JobStatus.RUNNING)
        assert first.worker is not None
        frozen = fleet.process_of(first.worker)
        fleet.send(first.worker, signal.SIGSTOP)
        wakes_at = time.monotonic() + frozen_s
        ended = await queue.wait(job_id, TIMEOUT_S)
        assert (ended.status, ended.attempt) == (JobStatus.SUCCEEDED, 2)
        assert ended.worker is not None and ended.worker != first.worker
        await asyncio.sleep(max(0.0, wakes_at - time.monotonic()))
        fleet.send(first.worker, signal.SIGCONT)
        fleet.send(first.worker, signal.SIGTERM)  # it finishes what it thinks is its own, and ends
        await asyncio.to_thread(frozen.join, TIMEOUT_S)
        assert frozen.exitcode == 0
        mark = mark_of(fleet.process_of(ended.worker).pid)
    assert await queue.get(job_id) == ended
    assert await mark_on(queue, job_id) == mark


async def test_a_second_sigterm_ends_a_worker_at_once_and_another_has_its_job(
    redis_url: str, open_queue: Open
) -> None:
    settings = fleet_settings(redis_url)
    queue = await open_queue(settings)
    with Fleet(settings, 1, serve_scripted) as fleet:
        job_id = await submit(queue, slow(30))
        job = await until(queue, job_id, lambda job: job.status is JobStatus.RUNNING)
        assert job.worker is not None
        process = fleet.process_of(job.worker)
        fleet.send(job.worker, signal.SIGTERM)
        await asyncio.to_thread(process.join, 0.5)
        assert process.is_alive()  # its step is under way, and it has time
        fleet.send(job.worker, signal.SIGTERM)
        await asyncio.to_thread(process.join, 10.0)
        assert process.exitcode == 1
        assert (await queue.get(job_id)).status is JobStatus.RUNNING
        fleet.replace_dead()
        await until(queue, job_id, lambda job: job.attempt == 2)


async def test_a_job_goes_on_at_the_task_that_was_interrupted(
    redis_url: str, open_queue: Open, tmp_path: Path
) -> None:
    names, steps = ("derain", "desnow", "dehaze"), 40
    write_tiny_base(tmp_path)
    for seed, name in enumerate(names):
        write_tiny_plugin(tmp_path, name, seed)
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    settings = fleet_settings(redis_url, plugins_store=tmp_path)
    queue = await open_queue(settings)
    with Fleet(settings, 1) as fleet:
        job_id = await submit(queue, encode(pixels, "png"), names, steps)
        await until(queue, job_id, lambda job: job.progress and job.progress.task == 2)
        fleet.kill(fleet.processes[0])
        fleet.replace_dead()
        job = await queue.wait(job_id, TIMEOUT_S)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 2)
    assert job.versions == dict.fromkeys(names, "1.0.0")
    events = [event async for _, event in queue.watch(job_id)]
    tasks = {e.progress.task for e in events if e.progress and e.attempt == 2}
    assert tasks == {2, 3}
    engine = build_engine(tmp_path, BASE, "cpu", num_threads=1)
    engine.add(Edit("alone", pixels, names, steps, seed=5))
    alone = None
    while engine.has_work:
        alone = next((u.pixels for u in engine.step() if isinstance(u, EditDone)), None)
    np.testing.assert_array_equal(await pixels_of(queue, job_id), alone)


async def test_no_job_is_lost_doubled_or_stuck_while_everything_is_killed(tmp_path: Path) -> None:
    load = Load(num_jobs=200, seconds=15.0, kill_every_s=3.0, timeout_s=200.0, lease_s=1.0)
    write_store(tmp_path)
    with PrivateRedis(is_durable=True) as redis:
        report = await run_chaos(load, redis, tmp_path)
    outcome, kills = report.outcome, report.kills
    assert outcome.is_good, report
    assert outcome.succeeded + outcome.failed == outcome.jobs == 200
    assert kills.worker_kills >= 2 and outcome.retried > 0, report
    assert (kills.selector_kills, kills.redis_kills) == (2, 1), report
