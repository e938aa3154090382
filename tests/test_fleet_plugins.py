"""A plugin is replaced while real workers run it: no job fails, and each names its version."""

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from loadtests.fleet import Fleet
from service.engine.edit import Edit
from service.engine.engine import Engine, build_engine
from service.engine.updates import EditDone
from service.images import Pixels, encode
from service.job_queue import JobQueue, QueueSettings
from service.jobs import Job, JobStatus
from service.plugin_manifest import plugin_folder, weights_digest
from service.plugin_publish import Publisher
from service.queue_plugins import FleetPlugins
from tests.fleet_jobs import TIMEOUT_S, fleet_settings, pixels_of, submit
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PAUSE_S = 0.5
NUM_WEIGHTS = 3  # that the versions take in turn
STEPS = 6
MIN_VERSIONS = 3


def write_version(root: Path, number: int) -> Path:
    """A folder with version 1.number.0; its weights are those of number % NUM_WEIGHTS."""
    source = plugin_folder(root / f"weights{number % NUM_WEIGHTS}", BASE, "derain")
    folder = root / f"version{number}"
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"1.0.0"', f'"1.{number}.0"'))
    return folder


def edited(engine: Engine, pixels: Pixels, version: str) -> Pixels:
    """What that version makes of a picture, alone."""
    engine.add(Edit("alone", pixels, ("derain",), STEPS, seed=5, versions={"derain": version}))
    while engine.has_work:
        for update in engine.step():
            if isinstance(update, EditDone):
                assert update.versions == {"derain": version}
                return update.pixels
    raise AssertionError("the edit did not end")


async def load(queue: JobQueue, image: bytes, stop: asyncio.Event, done: list[Job]) -> None:
    """One of several callers: jobs one after the other until `stop`, each of which must succeed."""
    while not stop.is_set():
        job = await queue.wait(await submit(queue, image, steps=STEPS), TIMEOUT_S)
        assert job.status is JobStatus.SUCCEEDED, job
        done.append(job)


def versions_of(jobs: list[Job]) -> set[str]:
    return {job.versions["derain"] for job in jobs}


@pytest.mark.parametrize("seconds", [5.0, pytest.param(30.0, marks=pytest.mark.full)])
async def test_a_plugin_is_replaced_under_load_and_no_job_fails(
    redis_url: str, tmp_path: Path, seconds: float
) -> None:
    store = tmp_path / "store"
    write_tiny_base(store)
    write_tiny_plugin(store, "derain", 0)
    for number in range(NUM_WEIGHTS):
        write_tiny_plugin(tmp_path / f"weights{number}", "derain", number)
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    settings = fleet_settings(redis_url, plugins_store=store, lease_s=15.0)
    queue = JobQueue.connect(redis_url, QueueSettings.from_settings(settings))
    publisher = Publisher(queue, store, BASE, settings.result_ttl_s)
    stop, num_published = asyncio.Event(), 0
    jobs: list[Job] = []
    with Fleet(settings, 2):
        image = encode(pixels, "png")
        callers = [asyncio.create_task(load(queue, image, stop, jobs)) for _ in range(4)]
        async with asyncio.timeout(TIMEOUT_S):
            while len(await queue.workers()) < 2:
                await asyncio.sleep(0.05)
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(versions_of(jobs)) < MIN_VERSIONS:
            assert time.monotonic() < end + TIMEOUT_S, versions_of(jobs)
            num_published += 1
            folder = await asyncio.to_thread(write_version, tmp_path, num_published)
            await publisher.publish(folder)
            await asyncio.sleep(PAUSE_S)
        stop.set()
        await asyncio.gather(*callers)
        last = f"1.{num_published}.0"
        async with asyncio.timeout(TIMEOUT_S):  # every worker has come to the last one
            while {w.versions["derain"] for w in await queue.workers()} != {last}:
                await asyncio.sleep(0.05)
    versions = versions_of(jobs)
    assert versions <= {"1.0.0", *(f"1.{number}.0" for number in range(1, num_published + 1))}
    engine = build_engine(store, BASE, "cpu", num_threads=1)
    for version in sorted(versions)[:6]:
        job = next(job for job in jobs if job.versions["derain"] == version)
        alone = edited(engine, pixels, version)
        difference = (await pixels_of(queue, job.id)).astype(int) - alone
        assert np.abs(difference).max() <= 1, version
    await queue.close()


async def test_a_removed_plugin_is_served_by_nobody_and_its_running_job_ends(
    redis_url: str, tmp_path: Path
) -> None:
    write_tiny_base(tmp_path)
    write_tiny_plugin(tmp_path, "derain", 0)
    digest = weights_digest(plugin_folder(tmp_path, BASE, "derain"))
    settings = fleet_settings(redis_url, plugins_store=tmp_path, lease_s=15.0)
    queue = JobQueue.connect(redis_url, QueueSettings.from_settings(settings))
    image = encode(np.full((64, 64, 3), 90, np.uint8), "png")
    with Fleet(settings, 1):
        running = await submit(queue, image, ("derain", "derain"), steps=100)
        async with asyncio.timeout(TIMEOUT_S):
            while not (await queue.get(running)).progress:
                await asyncio.sleep(0.01)
            await Publisher(queue, tmp_path, BASE, 60.0).remove("derain")
            while "derain" in (await queue.workers())[0].versions:
                await asyncio.sleep(0.02)
        refused = await queue.wait(await submit(queue, image), TIMEOUT_S)
        assert refused.error is not None and refused.error.code == "unknown_plugin"
        ended = await queue.wait(running, TIMEOUT_S)
    assert (ended.status, ended.versions) == (JobStatus.SUCCEEDED, {"derain": "1.0.0"})
    assert (await FleetPlugins(queue, BASE).published()).plugins == {"derain": None}
    kept = plugin_folder(tmp_path, BASE, "derain") / "versions" / "1.0.0"
    assert weights_digest(kept) == digest
    await queue.close()
