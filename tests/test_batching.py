"""Requests of different plugins that wait together share UNet calls, and none changes another."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from service.engine.engine import Engine, build_engine
from service.images import ImageLimits, decode, encode
from service.job_queue import JobQueue, QueueSettings
from service.jobs import EditRequest, Job, JobStatus, Plan, PlannedTask
from service.metrics_published import read_published
from service.metrics_worker import EngineMetrics
from service.worker import Worker, WorkerSettings
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin

LIMITS = ImageLimits(max_bytes=10**6, max_pixels=10**6, min_side=8)
TOLERANCE_LEVELS = 1
PLUGINS = ("derain", "desnow", "dehaze")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    store = tmp_path_factory.mktemp("store")
    write_tiny_base(store)
    for seed, name in enumerate(PLUGINS, start=1):
        write_tiny_plugin(store, name, seed)
    yield build_engine(store, BASE, "cpu", max_batch_size=4, num_threads=1)
    torch.set_num_threads(1)


@pytest.fixture
def queue_settings() -> QueueSettings:
    """A lease that a busy machine does not let run out: a job taken over is run twice."""
    return QueueSettings(prefix="test", lease_s=30.0, max_depth=4, heartbeat_s=0.1)


def make_job(plugin: str) -> Job:
    plan = Plan(tasks=(PlannedTask(plugin=plugin),), source="request")
    return Job(request=EditRequest(plugins=(plugin,), steps=5, seed=3), plan=plan)


def photo(plugin: str) -> bytes:
    rng = np.random.default_rng(PLUGINS.index(plugin))
    return encode(rng.integers(0, 256, (32, 48, 3), dtype=np.uint8), "png")


async def serve(queue: JobQueue, engine: Engine, jobs: list[Job]) -> EngineMetrics:
    """Submit the jobs, then run a worker until nothing is left."""
    for job in jobs:
        await queue.submit(job, photo(job.plan.runnable[0] if job.plan else ""))
    worker = Worker(queue, engine, WorkerSettings("worker", BASE, "cpu", LIMITS))
    await worker.run(burst=True)
    for job in jobs:
        assert (await queue.get(job.id)).status is JobStatus.SUCCEEDED
    return worker.metrics


def value(metrics: EngineMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"diffplugin_{name}", labels)


async def test_different_plugins_share_calls_and_equal_themselves_alone(
    queue: JobQueue, engine: Engine
) -> None:
    alone = {}
    for plugin in PLUGINS:
        job = make_job(plugin)
        metrics = await serve(queue, engine, [job])
        assert value(metrics, "shared_batches_total") == 0
        alone[plugin] = decode(await queue.result_of(job.id), LIMITS)
    together = [make_job(plugin) for plugin in PLUGINS]
    metrics = await serve(queue, engine, together)
    assert value(metrics, "shared_batches_total") == 5
    assert value(metrics, "batches_total") == 5
    assert value(metrics, "steps_total") == 15
    assert value(metrics, "rows_total", plugin="desnow") == 5
    assert value(metrics, "jobs_total", status="succeeded") == 3
    for job, plugin in zip(together, PLUGINS, strict=True):
        result = decode(await queue.result_of(job.id), LIMITS)
        assert np.abs(result.astype(int) - alone[plugin]).max() <= TOLERANCE_LEVELS


async def test_occupancy_is_published_where_the_api_reads_it(
    queue: JobQueue, engine: Engine
) -> None:
    metrics = await serve(queue, engine, [make_job("derain"), make_job("desnow")])
    await metrics.publish(queue, "worker")
    published = await read_published(queue, ["worker"])
    assert "diffplugin_shared_batches_total 5.0" in published["worker"]
