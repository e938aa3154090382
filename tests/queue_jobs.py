"""Jobs for the tests of the queue, and consumers that claim and end them."""

import time

from service.job_queue import Claim, JobQueue, Stage
from service.jobs import (
    EditRequest,
    Job,
    JobError,
    Plan,
    PlannedTask,
    Progress,
)

IMAGE = b"image bytes \x00\xff"
PLAN = Plan(tasks=(PlannedTask(plugin="derain"),), source="request")
FAILURE = JobError(code="edit_failed", detail="the engine could not")
PROGRESS = Progress(plugin="derain", task=1, num_tasks=1, step=1, num_steps=4)


def make_job(deadline_s: float | None = None, plan: Plan | None = PLAN) -> Job:
    deadline_at = None if deadline_s is None else time.time() + deadline_s
    return Job(request=EditRequest(instruction="stop the rain"), plan=plan, deadline_at=deadline_at)


async def submit(queue: JobQueue, deadline_s: float | None = None, plan: Plan | None = PLAN) -> str:
    return (await queue.submit(make_job(deadline_s, plan), IMAGE)).id


async def claim_one(queue: JobQueue, consumer: str = "one", stage: Stage = Stage.RUN) -> Claim:
    """The next claim, waiting up to 2 s for a lease to run out."""
    give_up_at = time.monotonic() + 2.0
    while time.monotonic() < give_up_at:
        claims = await queue.claim(stage, consumer, block_s=0.01)
        if claims:
            return claims[0]
    raise AssertionError("nothing could be claimed within 2 s")


async def complete(queue: JobQueue, claim: Claim, result: bytes = b"result") -> bool:
    return await queue.complete(claim, result, "image/png", claim.job.timings)
