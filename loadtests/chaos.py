"""Chaos: workers, the selector and Redis are killed while jobs run; every job must end once.

    python -m loadtests.chaos [--jobs 1000] [--seconds 120]

It starts a Redis of its own, which writes each change to disk before it answers, and a selector and
workers on a tiny base with random weights. It prints its figures as JSON; exit code 1 if a job was
lost, ended twice or is stuck.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtests.chaos_jobs import (
    POLL_S,
    Outcome,
    count,
    random_job,
    submit,
    wait_for_ends,
    write_store,
)
from loadtests.fleet import Fleet, serve_selector
from service.job_queue import JobQueue, QueueSettings
from service.redis_server import PrivateRedis
from service.settings import Settings
from tests.tiny_base import BASE

REDIS_DOWN_S = 1.0


@dataclass(frozen=True)
class Load:
    """`num_jobs` are sent over half of `seconds`; a worker is killed every `kill_every_s`, the
    selector at a quarter and at three quarters of the time, Redis in the middle.
    """

    num_jobs: int
    seconds: float
    kill_every_s: float
    num_workers: int = 4
    timeout_s: float = 600.0
    lease_s: float = 2.0


@dataclass
class Kills:
    worker_kills: int = 0
    selector_kills: int = 0
    redis_kills: int = 0


@dataclass(frozen=True)
class Report:
    outcome: Outcome
    kills: Kills
    seconds: float

    def to_json(self) -> str:
        figures = {**asdict(self.outcome), **asdict(self.kills), "seconds": round(self.seconds, 1)}
        return json.dumps(figures, indent=2)


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
        retry_backoff_s=0.5,
        max_queue_depth=load.num_jobs,
    )


async def run_chaos(load: Load, redis: PrivateRedis, store: Path, seed: int = 0) -> Report:
    """Send, kill, wait until every job has ended or the time is over, and count.

    `redis` is durable, and the calling thread outlives it: it is started again from here.
    """
    rng = random.Random(seed)
    settings = settings_of(load, redis.url, store)
    queue = JobQueue.connect(redis.url, QueueSettings.from_settings(settings))
    started = time.monotonic()
    try:
        with (
            Fleet(settings, load.num_workers) as workers,
            Fleet(settings, 1, serve_selector) as selectors,
        ):
            await wait_for_fleet(queue, load.timeout_s)
            killing = asyncio.create_task(kill(workers, selectors, redis, load, rng))
            ids = await send_jobs(queue, load, rng)
            await wait_for_ends(queue, ids, load.timeout_s)
            kills = await killing
        return Report(await count(queue, ids), kills, time.monotonic() - started)
    finally:
        await queue.close()


async def wait_for_fleet(queue: JobQueue, timeout_s: float) -> None:
    async with asyncio.timeout(timeout_s):
        while {info.role for info in await queue.workers()} != {"worker", "selector"}:
            await asyncio.sleep(POLL_S)


async def send_jobs(queue: JobQueue, load: Load, rng: random.Random) -> list[str]:
    ids = []
    for _ in range(load.num_jobs):
        job, image = random_job(rng, load.timeout_s)
        await submit(queue, job, image)
        ids.append(job.id)
        await asyncio.sleep(0.5 * load.seconds / load.num_jobs)
    return ids


async def kill(
    workers: Fleet, selectors: Fleet, redis: PrivateRedis, load: Load, rng: random.Random
) -> Kills:
    """Kill, and put others in the places of the dead at once; Redis is away for a second."""
    kills, began = Kills(), time.monotonic()
    selector_at, redis_at = [0.25 * load.seconds, 0.75 * load.seconds], [0.5 * load.seconds]
    while (now := time.monotonic() - began) < load.seconds or selector_at or redis_at:
        await asyncio.sleep(load.kill_every_s)
        await asyncio.to_thread(workers.kill, rng.choice(workers.processes))
        kills.worker_kills += 1
        workers.replace_dead()
        if selector_at and now >= selector_at[0]:
            selector_at.pop(0)
            await asyncio.to_thread(selectors.kill, selectors.processes[0])
            kills.selector_kills += 1
            selectors.replace_dead()
        if redis_at and now >= redis_at[0]:
            redis_at.pop(0)
            redis.kill()
            kills.redis_kills += 1
            await asyncio.sleep(REDIS_DOWN_S)
            redis.start()
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill workers, selector and Redis while jobs run.")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--kill-every", type=float, default=3.0)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    load = Load(options.jobs, options.seconds, options.kill_every, options.workers)
    with PrivateRedis(is_durable=True) as redis, tempfile.TemporaryDirectory() as folder:
        write_store(Path(folder))
        report = asyncio.run(run_chaos(load, redis, Path(folder)))
    print(report.to_json())
    sys.exit(0 if report.outcome.is_good else 1)


if __name__ == "__main__":
    main()
