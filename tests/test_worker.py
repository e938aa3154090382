"""The worker around an engine that inverts images: claims, ends, cancels, stops, outages."""

import asyncio
import io
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from PIL import Image

from service import errors
from service.engine.edit import Edit
from service.engine.updates import EditDone, EditFailed, StepDone, TaskDone, Update
from service.image_16_bits import write_png_16
from service.images import ImageLimits, encode, read_photo
from service.job_queue import JobQueue, QueueSettings, Stage
from service.jobs import EditRequest, Job, JobStatus, Plan, PlannedTask, Progress, Timings
from service.models.residency import Residency
from service.plugin_manifest import Published
from service.queue_records import pack_input
from service.redis_server import PrivateRedis
from service.worker import Worker, WorkerSettings

LIMITS = ImageLimits(max_bytes=10**6, max_pixels=10**6, min_side=8)
PIXELS = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)


class InvertingEngine:
    """Each edit takes `steps` steps; plugin "broken" fails its own edit.

    While `gate` is not set, a step blocks its thread.
    """

    residency = Residency()
    device_memory: Mapping[str, int] = MappingProxyType({})
    edit_memory: Mapping[str, int] = MappingProxyType({})
    num_short_of_memory = 0
    num_padding_rows = 0

    def __init__(self, num_slots: int = 2) -> None:
        self.num_slots = num_slots
        self.edits: dict[str, tuple[Edit, int]] = {}
        self.added: list[str] = []
        self.batch_sizes: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    @property
    def plugins(self) -> tuple[str, ...]:
        return ("derain", "broken")

    @property
    def versions(self) -> dict[str, str]:
        return {name: "1.0.0" for name in self.plugins}

    def follow(self, published: Published) -> dict[str, str]:
        return {}

    @property
    def num_free_slots(self) -> int:
        return self.num_slots - len(self.edits)

    @property
    def has_work(self) -> bool:
        return bool(self.edits)

    def add(self, edit: Edit) -> None:
        assert self.num_free_slots > 0
        self.edits[edit.id] = (edit, 0)
        self.added.append(edit.id)

    def abort(self, edit_id: str) -> None:
        self.edits.pop(edit_id, None)

    def step(self) -> list[Update]:
        assert self.gate.wait(10.0)
        self.batch_sizes.append(len(self.edits))
        return [update for edit_id in list(self.edits) for update in self._advance(edit_id)]

    def _advance(self, edit_id: str) -> list[Update]:
        edit, step = self.edits[edit_id]
        seen = edit.pixels if edit.resumed is None else edit.resumed
        if "broken" in edit.plugins:
            del self.edits[edit_id]
            return [EditFailed(edit_id, errors.EditFailed("task 'broken' failed"))]
        num_steps = edit.steps or 2
        self.edits[edit_id] = (edit, step + 1)
        task, num_tasks = edit.num_done + 1, len(edit.plugins)
        progress = Progress(
            plugin="derain", task=task, num_tasks=num_tasks, step=step + 1, num_steps=num_steps
        )
        if step + 1 < num_steps:
            return [StepDone(edit_id, progress)]
        if task < num_tasks:
            between = 255 - seen
            self.edits[edit_id] = (replace(edit, resumed=between, num_done=task), 0)
            return [StepDone(edit_id, progress), TaskDone(edit_id, task, between)]
        del self.edits[edit_id]
        return [
            StepDone(edit_id, progress),
            EditDone(edit_id, 1 - seen.astype(np.float32) / 255, Timings(denoise_s=0.125)),
        ]


def make_worker(
    queue: JobQueue, engine: InvertingEngine, name: str = "worker", grace_s: float = 5.0
) -> Worker:
    return Worker(queue, engine, WorkerSettings(name, "tiny", "cpu", LIMITS, grace_s))


async def run_burst(queue: JobQueue) -> None:
    await asyncio.wait_for(make_worker(queue, InvertingEngine()).run(burst=True), 5.0)


@asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(worker.run())
    try:
        yield task
    finally:
        worker.stop()
        await asyncio.wait_for(task, 5.0)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5.0):
        while not condition():
            await asyncio.sleep(0.005)


async def submit(
    queue: JobQueue,
    plugins: tuple[str, ...] = ("derain",),
    steps: int | None = None,
    image: bytes = encode(PIXELS, "png"),
    deadline_s: float = 60.0,
) -> str:
    plan = Plan(tasks=tuple(PlannedTask(plugin=name) for name in plugins), source="request")
    request = EditRequest(plugins=plugins, steps=steps)
    job = Job(request=request, plan=plan, deadline_at=time.time() + deadline_s)
    return (await queue.submit(job, image)).id


async def test_jobs_queued_before_the_worker_started_are_run(queue: JobQueue) -> None:
    ids = [await submit(queue) for _ in range(4)]
    await run_burst(queue)
    for job_id in ids:
        job = await queue.get(job_id)
        assert (job.status, job.result_type) == (JobStatus.SUCCEEDED, "image/png")
        result = Image.open(io.BytesIO(await queue.result_of(job_id)))
        np.testing.assert_array_equal(np.asarray(result), 255 - PIXELS)


async def test_a_job_carries_the_time_of_every_stage(queue: JobQueue) -> None:
    job_id = await submit(queue)
    await run_burst(queue)
    timings = (await queue.get(job_id)).timings
    assert timings.denoise_s == 0.125
    assert min(timings.queue_s, timings.decode_s, timings.encode_s) > 0
    assert timings.total_s > timings.queue_s + timings.decode_s + timings.encode_s


async def test_no_more_is_claimed_than_the_engine_has_room_for(queue: JobQueue) -> None:
    for _ in range(4):
        await submit(queue, steps=3)
    engine = InvertingEngine(num_slots=2)
    engine.gate.clear()
    async with running(make_worker(queue, engine)):
        await until(lambda: engine.has_work)
        await until(lambda: len(engine.edits) == 2)
        assert (await queue.depth())[Stage.RUN].waiting == 2
        engine.gate.set()
        await until(lambda: len(engine.added) == 4 and not engine.has_work)
    assert max(engine.batch_sizes) == 2


async def test_progress_is_published(queue: JobQueue) -> None:
    job_id = await submit(queue, steps=3)
    await run_burst(queue)
    events = [event async for _, event in queue.watch(job_id)]
    assert [e.progress.step for e in events if e.kind == "progress" and e.progress] == [1, 2, 3]
    assert events[-1].status is JobStatus.SUCCEEDED


async def test_a_failing_job_fails_alone(queue: JobQueue) -> None:
    bad_id, good_id = await submit(queue, ("broken",)), await submit(queue)
    damaged_id = await submit(queue, image=encode(PIXELS, "png")[:60])
    async with running(make_worker(queue, InvertingEngine())):
        bad = await queue.wait(bad_id, 5.0)
    assert (await queue.get(good_id)).status is JobStatus.SUCCEEDED
    assert bad.error is not None and bad.error.code == "edit_failed"
    assert "task 'broken' failed" in bad.error.detail
    assert bad.attempt == queue.settings.max_deliveries
    damaged = await queue.get(damaged_id)
    assert damaged.error is not None and damaged.error.code == "invalid_image"
    assert damaged.attempt == 1


async def test_a_plan_with_nothing_to_run_returns_the_input(queue: JobQueue) -> None:
    job_id = await submit(queue, plugins=())
    await run_burst(queue)
    job = await queue.get(job_id)
    assert (job.status, job.no_op) == (JobStatus.SUCCEEDED, True)
    assert await queue.result_of(job_id) == encode(PIXELS, "png")


async def test_depth_metadata_and_unmasked_samples_pass_through_the_worker(
    queue: JobQueue,
) -> None:
    samples = np.random.default_rng(1).integers(0, 65536, (16, 24, 3)).astype(np.uint16)
    mask = np.zeros((16, 24), np.uint8)
    mask[:, :12] = 255
    image = pack_input(write_png_16(samples, xmp=b"<x/>"), encode_grey(mask))
    photo = read_photo(await queue.result_of(await submit_and_run(queue, image)), LIMITS)
    np.testing.assert_array_equal(photo.samples[:, 12:], samples[:, 12:])
    assert np.abs(photo.samples[:, :6].astype(int) - (65535 - samples[:, :6])).mean() < 700
    assert photo.metadata.xmp == b"<x/>"


async def submit_and_run(queue: JobQueue, image: bytes) -> str:
    job_id = await submit(queue, image=image)
    await run_burst(queue)
    return job_id


def encode_grey(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


async def test_a_result_that_cannot_be_encoded_fails_its_job(queue: JobQueue) -> None:
    wide = encode(np.zeros((8, 17_000, 3), np.uint8), "png")
    plan = Plan(tasks=(PlannedTask(plugin="derain"),))
    job = await queue.submit(Job(request=EditRequest(output_format="webp"), plan=plan), wide)
    await run_burst(queue)
    assert (await queue.get(job.id)).status is JobStatus.FAILED


async def test_a_step_longer_than_the_lease_does_not_cost_the_job(queue: JobQueue) -> None:
    job_id = await submit(queue)
    engine = InvertingEngine()
    engine.gate.clear()
    async with running(make_worker(queue, engine)):
        await until(lambda: engine.has_work)
        end = time.monotonic() + 3 * queue.settings.lease_s
        while time.monotonic() < end:
            assert await queue.claim(Stage.RUN, "thief", block_s=0.02) == []
        engine.gate.set()
        assert (await queue.wait(job_id, 5.0)).attempt == 1


async def test_another_worker_finishes_the_job_of_a_dead_one(queue: JobQueue) -> None:
    job_id = await submit(queue)
    [dead] = await queue.claim(Stage.RUN, "dead")
    async with running(make_worker(queue, InvertingEngine())):
        job = await queue.wait(job_id, 5.0)
    assert (job.status, job.attempt, job.worker) == (JobStatus.SUCCEEDED, 2, "worker")
    assert not await queue.complete(dead, b"late", "image/png", Timings())
    assert await queue.result_of(job_id) != b"late"


async def test_a_worker_that_lost_its_job_drops_the_row_and_changes_nothing(
    queue: JobQueue,
) -> None:
    job_id = await submit(queue, steps=10**6)
    engine = InvertingEngine()
    async with running(make_worker(queue, engine)):
        await until(lambda: engine.has_work)
        # As if this worker had been frozen: the entry changes hands behind its back.
        [entry] = await queue.redis.xpending_range(
            "test:stream:run:normal", "diffplugin", "-", "+", 1
        )
        await queue.redis.xclaim(
            "test:stream:run:normal", "diffplugin", "thief", 0, [entry["message_id"]]
        )
        await until(lambda: not engine.has_work)
        job = await queue.get(job_id)
    assert job.status is JobStatus.RUNNING


async def test_the_next_attempt_starts_with_the_task_that_was_interrupted(queue: JobQueue) -> None:
    job_id = await submit(queue, plugins=3 * ("derain",), steps=2)
    engine = InvertingEngine()
    step = engine.step

    def step_until_the_second_task_has_begun() -> list[Update]:
        if any((edit.num_done, steps) == (1, 1) for edit, steps in engine.edits.values()):
            raise ZeroDivisionError
        return step()

    engine.step = step_until_the_second_task_has_begun  # type: ignore[method-assign]
    with pytest.raises(ExceptionGroup):
        await asyncio.wait_for(make_worker(queue, engine, "lost").run(), 5.0)
    async with running(make_worker(queue, InvertingEngine())):
        job = await queue.wait(job_id, 5.0)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 2)
    events = [event async for _, event in queue.watch(job_id)]
    assert {e.progress.task for e in events if e.progress and e.attempt == 2} == {2, 3}
    result = Image.open(io.BytesIO(await queue.result_of(job_id)))
    np.testing.assert_array_equal(np.asarray(result), 255 - PIXELS)


async def test_a_job_on_its_last_delivery_runs_alone(queue: JobQueue) -> None:
    ids = [await submit(queue, steps=3) for _ in range(2)]
    for _ in range(queue.settings.max_deliveries - 1):
        async with asyncio.timeout(5.0):
            num = 0
            while num < 2:
                num += len(await queue.claim(Stage.RUN, "lost", count=2, block_s=0.02))
    ids += [await submit(queue, steps=3) for _ in range(2)]
    engine = InvertingEngine(num_slots=4)
    shared: list[set[str]] = []
    step = engine.step

    def watched_step() -> list[Update]:
        shared.append(set(engine.edits))
        return step()

    engine.step = watched_step  # type: ignore[method-assign]
    async with running(make_worker(queue, engine)):
        jobs = [await queue.wait(job_id, 5.0) for job_id in ids]
    assert [job.status for job in jobs] == 4 * [JobStatus.SUCCEEDED]
    last = [job for job in jobs if job.attempt == queue.settings.max_deliveries]
    assert {job.id for job in last} == set(ids[:2])
    for job in last:
        assert [rows for rows in shared if f"{job.id}.{job.attempt}" in rows] == 3 * [
            {f"{job.id}.{job.attempt}"}
        ]


async def test_cancel_takes_a_running_job_out_of_the_engine(queue: JobQueue) -> None:
    job_id = await submit(queue, steps=10**6)
    engine = InvertingEngine()
    async with running(make_worker(queue, engine)):
        await until(lambda: len(engine.batch_sizes) > 1)
        await queue.cancel(job_id)
        num_steps = len(engine.batch_sizes)
        await until(lambda: not engine.has_work)
        assert len(engine.batch_sizes) <= num_steps + 2
        other_id = await submit(queue)
        assert (await queue.wait(other_id, 5.0)).status is JobStatus.SUCCEEDED
    assert (await queue.get(job_id)).status is JobStatus.CANCELED


async def test_a_job_that_runs_past_its_deadline_expires(queue: JobQueue) -> None:
    job_id = await submit(queue, steps=10**6, deadline_s=0.2)
    engine = InvertingEngine()
    async with running(make_worker(queue, engine)):
        await until(lambda: engine.has_work)
        await until(lambda: not engine.has_work)
        assert (await queue.wait(job_id, 5.0)).status is JobStatus.EXPIRED


async def test_a_stopped_worker_finishes_what_runs_and_claims_no_more(queue: JobQueue) -> None:
    first_id = await submit(queue, steps=50)
    engine = InvertingEngine(num_slots=1)
    worker = make_worker(queue, engine)
    async with running(worker) as task:
        await until(lambda: engine.has_work)
        second_id = await submit(queue)
        worker.stop()
        await asyncio.wait_for(task, 5.0)
    assert (await queue.get(first_id)).status is JobStatus.SUCCEEDED
    assert (await queue.get(second_id)).status is JobStatus.QUEUED
    assert await queue.workers() == []


async def test_a_worker_out_of_grace_hands_its_jobs_back(redis_url: str) -> None:
    queue, other = (JobQueue.connect(redis_url, QueueSettings(lease_s=1000.0)) for _ in range(2))
    job_id = await submit(queue, steps=10**6)
    engine = InvertingEngine()
    worker = make_worker(queue, engine, grace_s=0.05)
    async with running(worker) as task:
        await until(lambda: engine.has_work)
        worker.stop()
        await asyncio.wait_for(task, 5.0)
    assert (await queue.get(job_id)).status is JobStatus.QUEUED
    [claim] = await other.claim(Stage.RUN, "other")
    assert (claim.job.id, claim.delivery) == (job_id, 1)
    await queue.close()
    await other.close()


async def test_a_broken_engine_ends_the_worker_and_keeps_the_job(queue: JobQueue) -> None:
    job_id = await submit(queue)
    engine = InvertingEngine()
    engine.step = lambda: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(ExceptionGroup) as raised:
        await asyncio.wait_for(make_worker(queue, engine).run(), 5.0)
    assert raised.group_contains(ZeroDivisionError)
    async with running(make_worker(queue, InvertingEngine(), "healthy")):
        assert (await queue.wait(job_id, 5.0)).attempt == 2


async def test_heartbeats_tell_what_the_worker_serves(queue: JobQueue) -> None:
    async with running(make_worker(queue, InvertingEngine())):
        async with asyncio.timeout(5.0):
            while not (workers := await queue.workers()):
                await asyncio.sleep(0.005)
    [info] = workers
    assert (info.name, info.role, info.backbone, info.device) == ("worker", "worker", "tiny", "cpu")
    assert (info.plugins, info.free_slots) == (("derain", "broken"), 2)


async def test_a_worker_outlives_a_restart_of_redis(
    tmp_path_factory: pytest.TempPathFactory, queue_settings: QueueSettings
) -> None:
    folder: Path = tmp_path_factory.mktemp("r")
    server = PrivateRedis(folder)
    server.start()
    queue = JobQueue.connect(server.url, queue_settings)
    engine = InvertingEngine()
    try:
        async with running(make_worker(queue, engine)):
            await submit(queue, steps=10**6)  # forgotten with the Redis it was in
            await until(lambda: engine.has_work)
            server.stop()
            num_steps = len(engine.batch_sizes)
            await until(lambda: len(engine.batch_sizes) > num_steps)
            server.start()
            job_id = await submit(queue)
            assert (await queue.wait(job_id, 5.0)).status is JobStatus.SUCCEEDED
            await until(lambda: not engine.has_work)
    finally:
        await queue.close()
        server.stop()
