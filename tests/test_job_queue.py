"""The job queue on a real Redis: a job's way, its ends, its events, and what is left behind."""

import asyncio

import pytest

from service import errors
from service.job_queue import JobQueue, QueueSettings, Stage, error_of
from service.jobs import (
    EditRequest,
    Job,
    JobStatus,
    Plan,
    Priority,
    Timings,
)
from tests.queue_jobs import FAILURE, IMAGE, PLAN, PROGRESS, claim_one, complete, make_job, submit


async def test_a_job_queued_before_any_consumer_is_delivered(queue: JobQueue) -> None:
    job_id = await submit(queue)
    claim = await claim_one(queue)
    assert (claim.job.id, claim.image, claim.delivery) == (job_id, IMAGE, 1)
    assert claim.job.status is JobStatus.RUNNING
    assert claim.job.worker == "one"
    assert claim.job == await queue.get(job_id)


async def test_a_job_keeps_every_field_on_its_way_through_redis(queue: JobQueue) -> None:
    plan = Plan(tasks=(), scores={"derain": 0.123456789012345}, threshold=0.25)
    job = Job(request=EditRequest(instruction='é "quoted" 雨', plugins=(), seed=2**40), plan=plan)
    await queue.submit(job, IMAGE)
    assert await queue.get(job.id) == job


async def test_a_job_goes_from_the_selector_to_the_workers(queue: JobQueue) -> None:
    job_id = await submit(queue, plan=None)
    assert await queue.claim(Stage.RUN, "worker") == []
    selector_claim = await claim_one(queue, "selector", Stage.PLAN)
    assert selector_claim.job.status is JobStatus.PLANNING
    assert await queue.planned(selector_claim, PLAN, plan_s=0.5)
    claim = await claim_one(queue, "worker")
    assert claim.job.id == job_id
    assert claim.job.plan == PLAN
    assert claim.job.timings.plan_s == 0.5
    assert await queue.claim(Stage.PLAN, "selector") == []


async def test_a_selector_completes_a_job_with_nothing_to_do(queue: JobQueue) -> None:
    job_id = await submit(queue, plan=None)
    claim = await claim_one(queue, "selector", Stage.PLAN)
    nothing = Plan(scores={"derain": -0.1})
    assert await queue.complete(claim, claim.image, "image/png", Timings(), True, nothing)
    job = await queue.get(job_id)
    assert (job.status, job.no_op, job.plan) == (JobStatus.SUCCEEDED, True, nothing)
    assert await queue.result_of(job_id) == IMAGE
    assert (await queue.depth())[Stage.PLAN].running == 0


async def test_a_canceled_queued_job_is_never_delivered(queue: JobQueue) -> None:
    job_id, other_id = await submit(queue), await submit(queue)
    assert (await queue.cancel(job_id)).status is JobStatus.CANCELED
    assert await queue.canceled([job_id, other_id, "unknown"]) == {job_id}
    claims = await queue.claim(Stage.RUN, "worker", count=2)
    assert [claim.job.id for claim in claims] == [other_id]
    assert await complete(queue, claims[0])
    assert await queue.redis.xlen("test:stream:run:normal") == 0
    with pytest.raises(errors.JobCanceled):
        await queue.result_of(job_id)


async def test_cancel_reaches_a_running_job_at_its_next_report(queue: JobQueue) -> None:
    job_id = await submit(queue)
    claim = await claim_one(queue)
    assert await queue.report(claim, PROGRESS)
    await queue.cancel(job_id)
    assert not await queue.report(claim, PROGRESS)
    assert not await complete(queue, claim)
    assert (await queue.get(job_id)).status is JobStatus.CANCELED
    assert (await queue.depth())[Stage.RUN].running == 0


async def test_cancel_leaves_an_ended_job_as_it_is(queue: JobQueue) -> None:
    job_id = await submit(queue)
    await complete(queue, await claim_one(queue))
    assert (await queue.cancel(job_id)).status is JobStatus.SUCCEEDED
    with pytest.raises(errors.JobNotFound):
        await queue.cancel("unknown")


async def test_a_late_job_is_not_delivered_and_expires(queue: JobQueue) -> None:
    job_id = await submit(queue, deadline_s=-0.1)
    assert await queue.claim(Stage.RUN, "worker") == []
    assert await queue.redis.hget(f"test:job:{job_id}", "status") == b'"expired"'
    assert await queue.redis.xlen("test:stream:run:normal") == 0
    job = await queue.get(job_id)
    assert job.error is not None and isinstance(error_of(job.error), errors.DeadlineExceeded)


async def test_a_late_job_that_nobody_claims_expires_for_those_who_wait(queue: JobQueue) -> None:
    job_id = await submit(queue, deadline_s=0.05)
    assert (await queue.wait(job_id, timeout_s=3.0)).status is JobStatus.EXPIRED


async def test_watch_tells_every_change_and_resumes_by_id(queue: JobQueue) -> None:
    job_id = await submit(queue)
    claim = await claim_one(queue)
    for step in (1, 2):
        await queue.report(claim, PROGRESS.model_copy(update={"step": step}))
    watching = asyncio.create_task(_events(queue, job_id))
    await complete(queue, claim)
    events = await asyncio.wait_for(watching, 2.0)
    assert [(e.kind, e.status) for _, e in events] == [
        ("status", JobStatus.QUEUED),
        ("status", JobStatus.RUNNING),
        ("progress", JobStatus.RUNNING),
        ("progress", JobStatus.RUNNING),
        ("status", JobStatus.SUCCEEDED),
    ]
    assert [e.progress.step for _, e in events if e.kind == "progress" and e.progress] == [1, 2]
    assert await _events(queue, job_id, after=events[2][0]) == events[3:]
    assert await asyncio.wait_for(_events(queue, job_id, after=events[-1][0]), 2.0) == []


async def _events(queue: JobQueue, job_id: str, after: str = "0") -> list:
    return [item async for item in queue.watch(job_id, after)]


async def test_wait_gives_up_and_the_job_goes_on(queue: JobQueue) -> None:
    job_id = await submit(queue)
    with pytest.raises(errors.DeadlineExceeded):
        await queue.wait(job_id, timeout_s=0.05)
    await complete(queue, await claim_one(queue))
    assert (await queue.wait(job_id, timeout_s=2.0)).status is JobStatus.SUCCEEDED


async def test_result_of_says_why_there_is_none(queue: JobQueue) -> None:
    with pytest.raises(errors.JobNotFound):
        await queue.result_of("unknown")
    job_id = await submit(queue)
    with pytest.raises(errors.JobNotFinished):
        await queue.result_of(job_id)
    await queue.fail(await claim_one(queue), FAILURE)
    with pytest.raises(errors.EditFailed, match="could not"):
        await queue.result_of(job_id)


async def test_times_are_measured(queue: JobQueue) -> None:
    job_id = await submit(queue)
    claim = await claim_one(queue)
    timings = claim.job.timings.model_copy(update={"denoise_s": 0.25})
    await queue.complete(claim, b"result", "image/png", timings)
    job = await queue.get(job_id)
    assert job.timings.denoise_s == 0.25
    assert 0 < job.timings.queue_s < job.timings.total_s < 2.0


async def test_nothing_is_left_of_ended_jobs_but_what_will_expire(queue: JobQueue) -> None:
    done, failed, canceled, late = [await submit(queue) for _ in range(3)] + [
        await submit(queue, deadline_s=-1.0)
    ]
    await queue.cancel(canceled)
    claims = await queue.claim(Stage.RUN, "worker", count=4)
    await complete(queue, claims[0])
    await queue.fail(claims[1], FAILURE)
    assert [claim.job.id for claim in claims] == [done, failed]
    await queue.get(late)
    keys = {key.decode() for key in await queue.redis.keys("*")}
    assert not [key for key in keys if ":input:" in key]
    assert [key for key in keys if ":result:" in key] == [f"test:result:{done}"]
    lasting = {key for key in keys if await queue.redis.ttl(key) < 0}
    assert lasting == {f"test:stream:run:{priority}" for priority in Priority}
    assert await queue.redis.xlen("test:stream:run:normal") == 0


async def test_open_jobs_outlive_their_deadline_and_are_forgotten_after(queue: JobQueue) -> None:
    job_id = await submit(queue, deadline_s=100.0)
    for kind in ("job", "input", "events"):
        ttl_s = await queue.redis.ttl(f"test:{kind}:{job_id}")
        assert queue.settings.result_ttl_s < ttl_s <= queue.settings.result_ttl_s + 101


async def test_a_forgotten_job_is_skipped(queue: JobQueue) -> None:
    job_id = await submit(queue)
    await queue.redis.delete(f"test:job:{job_id}")
    assert await queue.claim(Stage.RUN, "worker") == []
    assert await queue.redis.xlen("test:stream:run:normal") == 0


async def test_an_absent_redis_is_named(queue_settings: QueueSettings) -> None:
    queue = JobQueue.connect("unix:///nowhere/redis.sock", queue_settings)
    with pytest.raises(errors.QueueUnavailable):
        await queue.get("any")
    with pytest.raises(errors.QueueUnavailable):
        await queue.claim(Stage.RUN, "worker")
    with pytest.raises(errors.QueueUnavailable):
        await queue.submit(make_job(), IMAGE)
    await queue.close()
