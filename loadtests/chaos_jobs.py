"""The jobs that chaos sends, and what became of them."""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.errors import JobNotFound, QueueUnavailable
from service.images import encode
from service.job_queue import Event, JobQueue
from service.jobs import EditRequest, Job, JobStatus, Plan, PlannedTask, Priority
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin
from tests.tiny_selector import write_tiny_selector

PLUGINS = ("derain", "desnow", "dehaze")
SIDES = ((24, 24), (32, 48), (48, 32))
MAX_STEPS = 8
POLL_S = 0.25
SHARE_OF_SENTENCES = 0.25
ALWAYS = -1.1  # a cosine is above it: the selector picks every task


@dataclass(frozen=True)
class Outcome:
    """`lost`: forgotten, or a success without a result. `duplicated`: ended more than once."""

    jobs: int
    succeeded: int
    failed: int
    lost: int
    duplicated: int
    stuck: int
    retried: int
    most_attempts: int

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.duplicated or self.stuck)


def write_store(store: Path) -> None:
    """A tiny base with random weights, three plugins and a selector that always picks them all."""
    write_tiny_base(store)
    for seed, name in enumerate(PLUGINS):
        write_tiny_plugin(store, name, seed, default_steps=3)
    write_tiny_selector(store, BASE, PLUGINS, ALWAYS)


def random_job(rng: random.Random, timeout_s: float) -> tuple[Job, bytes]:
    """One to three tasks, named or left to the selector, on a picture of one of a few sizes.

    Its deadline is later than we wait: a job that is stuck must not hide as one that expired.
    """
    names = tuple(rng.choices(PLUGINS, k=rng.randint(1, 3)))
    height, width = rng.choice(SIDES)
    pixels = np.frombuffer(rng.randbytes(height * width * 3), np.uint8).reshape(height, width, 3)
    is_sentence = rng.random() < SHARE_OF_SENTENCES
    tasks = tuple(PlannedTask(plugin=name) for name in names)
    request = EditRequest(
        instruction="remove the rain" if is_sentence else "",
        plugins=None if is_sentence else names,
        priority=rng.choice(list(Priority)),
        steps=rng.randint(2, MAX_STEPS),
        seed=rng.randrange(2**32),
    )
    plan = None if is_sentence else Plan(tasks=tasks, source="request")
    return Job(request=request, plan=plan, deadline_at=time.time() + 2 * timeout_s), encode(
        pixels, "png"
    )


async def submit(queue: JobQueue, job: Job, image: bytes) -> None:
    """Sent again until Redis has said that it has the job: the same job twice is one."""
    while True:
        try:
            await queue.submit(job, image)
            return
        except QueueUnavailable:
            await asyncio.sleep(POLL_S)


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
    except QueueUnavailable:
        return True


async def count(queue: JobQueue, ids: list[str]) -> Outcome:
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
    return Outcome(
        jobs=len(ids),
        succeeded=found[JobStatus.SUCCEEDED],
        failed=found[JobStatus.FAILED] + found[JobStatus.EXPIRED],
        lost=found["lost"],
        duplicated=found["duplicated"],
        stuck=found["stuck"],
        retried=sum(number > 1 for number in attempts),
        most_attempts=max(attempts, default=0),
    )


async def num_ends(queue: JobQueue, job_id: str) -> int:
    """How many ends were published; queue.watch() stops at the first."""
    entries = await queue.redis.xrange(queue.key("events", job_id))
    events = [Event.model_validate_json(fields[b"event"]) for _, fields in entries]
    return sum(event.status.is_final for event in events)
