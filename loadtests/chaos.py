"""Chaos: workers are killed while jobs run; every job must end once, with a result or an error.

    python -m loadtests.chaos [--jobs 1000] [--seconds 120]

It starts a Redis of its own and worker processes on a tiny base with random weights. Jobs name
their plugins, so no selector runs. It prints its figures as JSON; exit code 1 if a job was lost,
ended twice or is stuck.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from loadtests.fleet import Fleet
from service.errors import JobNotFound
from service.images import encode
from service.job_queue import Event, JobQueue, QueueSettings
from service.jobs import EditRequest, Job, JobStatus, Plan, PlannedTask, Priority
from service.redis_server import PrivateRedis
from service.settings import Settings
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin

PLUGINS = ("derain", "desnow", "dehaze")
SIDES = ((24, 24), (32, 48), (48, 32))
MAX_STEPS = 24
POLL_S = 0.25


@dataclass(frozen=True)
class Load:
    """`num_jobs` are sent over `seconds`, while a worker is killed every `kill_every_s`."""

    num_jobs: int
    seconds: float
    kill_every_s: float
    num_workers: int = 4
    timeout_s: float = 600.0
    lease_s: float = 2.0


@dataclass(frozen=True)
class Report:
    """`lost`: forgotten, or a success without a result. `duplicated`: ended more than once."""

    jobs: int
    succeeded: int
    failed: int
    lost: int
    duplicated: int
    stuck: int
    kills: int
    retried: int
    most_attempts: int
    seconds: float

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.duplicated or self.stuck)


def write_store(store: Path) -> None:
    write_tiny_base(store)
    for seed, name in enumerate(PLUGINS):
        write_tiny_plugin(store, name, seed, default_steps=3)


def settings_of(load: Load, redis_url: str, store: Path) -> Settings:
    return Settings(
        redis_url=redis_url,
        key_prefix="chaos",
        plugins_store=store,
        base=BASE,
        device="cpu",
        num_threads=1,
        max_batch_size=4,
        lease_s=load.lease_s,
        heartbeat_s=0.5,
        max_queue_depth=load.num_jobs,
    )


def random_job(rng: random.Random, timeout_s: float) -> tuple[Job, bytes]:
    """One to three tasks on a picture of one of a few sizes.

    Its deadline is later than we wait: a job that is stuck must not hide as one that expired.
    """
    names = tuple(rng.choices(PLUGINS, k=rng.randint(1, 3)))
    height, width = rng.choice(SIDES)
    pixels = np.frombuffer(rng.randbytes(height * width * 3), np.uint8).reshape(height, width, 3)
    plan = Plan(tasks=tuple(PlannedTask(plugin=name) for name in names), source="request")
    request = EditRequest(
        plugins=names,
        priority=rng.choice(list(Priority)),
        steps=rng.randint(4, MAX_STEPS),
        seed=rng.randrange(2**32),
    )
    job = Job(request=request, plan=plan, deadline_at=time.time() + 2 * timeout_s)
    return job, encode(pixels, "png")


async def run_chaos(load: Load, settings: Settings, seed: int = 0) -> Report:
    """Send, kill, wait until every job has ended or the time is over, and count."""
    rng = random.Random(seed)
    queue = JobQueue.connect(settings.redis_url, QueueSettings.from_settings(settings))
    started = time.monotonic()
    try:
        with Fleet(settings, load.num_workers) as fleet:
            async with asyncio.timeout(load.timeout_s):
                while not await queue.workers():
                    await asyncio.sleep(POLL_S)
            killing = asyncio.create_task(kill_workers(fleet, load, rng))
            ids = await send_jobs(queue, load, rng)
            await wait_for_ends(queue, ids, load.timeout_s)
            num_kills = await killing
        return await count(queue, ids, num_kills, time.monotonic() - started)
    finally:
        await queue.close()


async def send_jobs(queue: JobQueue, load: Load, rng: random.Random) -> list[str]:
    ids = []
    for _ in range(load.num_jobs):
        job, image = random_job(rng, load.timeout_s)
        ids.append((await queue.submit(job, image)).id)
        await asyncio.sleep(0.5 * load.seconds / load.num_jobs)
    return ids


async def kill_workers(fleet: Fleet, load: Load, rng: random.Random) -> int:
    """Number of kills. The dead are replaced at once."""
    num_kills, end = 0, time.monotonic() + load.seconds
    while time.monotonic() < end:
        await asyncio.sleep(load.kill_every_s)
        await asyncio.to_thread(fleet.kill, rng.choice(fleet.processes))
        num_kills += 1
        fleet.replace_dead()
    return num_kills


async def wait_for_ends(queue: JobQueue, ids: list[str], timeout_s: float) -> None:
    """Until every job has ended; those that have not by then are counted as stuck."""
    give_up_at = time.monotonic() + timeout_s
    open_ids = ids
    while open_ids and time.monotonic() < give_up_at:
        await asyncio.sleep(POLL_S)
        open_ids = [i for i in open_ids if await is_open(queue, i)]


async def is_open(queue: JobQueue, job_id: str) -> bool:
    try:
        return not (await queue.get(job_id)).status.is_final
    except JobNotFound:
        return False


async def count(queue: JobQueue, ids: list[str], num_kills: int, seconds: float) -> Report:
    found: Counter[str] = Counter()
    attempts = []
    for job_id in ids:
        try:
            job = await queue.get(job_id)
            if job.status is JobStatus.SUCCEEDED:
                await queue.result_of(job_id)
        except JobNotFound:
            found["lost"] += 1
            continue
        attempts.append(job.attempt)
        found[job.status if job.status.is_final else "stuck"] += 1
        found["duplicated"] += await num_ends(queue, job_id) > 1
    return Report(
        jobs=len(ids),
        succeeded=found[JobStatus.SUCCEEDED],
        failed=found[JobStatus.FAILED] + found[JobStatus.EXPIRED],
        lost=found["lost"],
        duplicated=found["duplicated"],
        stuck=found["stuck"],
        kills=num_kills,
        retried=sum(number > 1 for number in attempts),
        most_attempts=max(attempts, default=0),
        seconds=round(seconds, 1),
    )


async def num_ends(queue: JobQueue, job_id: str) -> int:
    """How many ends were published; queue.watch() stops at the first."""
    entries = await queue.redis.xrange(queue.key("events", job_id))
    events = [Event.model_validate_json(fields[b"event"]) for _, fields in entries]
    return sum(event.status.is_final for event in events)


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill workers while jobs run.")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--kill-every", type=float, default=3.0)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    load = Load(options.jobs, options.seconds, options.kill_every, options.workers)
    with PrivateRedis() as redis, tempfile.TemporaryDirectory() as folder:
        write_store(Path(folder))
        report = asyncio.run(run_chaos(load, settings_of(load, redis.url, Path(folder))))
    print(json.dumps(asdict(report), indent=2))
    sys.exit(0 if report.is_good else 1)


if __name__ == "__main__":
    main()
