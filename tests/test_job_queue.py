"""The job queue on a real Redis: leases, ends, events, limits, and what is left behind."""

import asyncio
import time

import pytest

from service import errors
from service.job_queue import Claim, JobQueue, QueueSettings, Stage, error_of
from service.jobs import (
    EditRequest,
    Job,
    JobError,
    JobStatus,
    Plan,
    PlannedTask,
    Priority,
    Progress,
    Timings,
    WorkerInfo,
)
from service.queue_records import Checkpoint, OnceKey, retry_after_s

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


async def test_a_plan_is_handed_on_once(queue: JobQueue) -> None:
    await submit(queue, plan=None)
    late = await claim_one(queue, "late", Stage.PLAN)
    quick = await claim_one(queue, "quick", Stage.PLAN)
    assert await queue.planned(quick, PLAN, plan_s=0.1)
    assert not await queue.planned(late, PLAN, plan_s=0.1)
    assert (await queue.depth())[Stage.RUN].waiting == 1


async def test_a_selector_completes_a_job_with_nothing_to_do(queue: JobQueue) -> None:
    job_id = await submit(queue, plan=None)
    claim = await claim_one(queue, "selector", Stage.PLAN)
    nothing = Plan(scores={"derain": -0.1})
    assert await queue.complete(claim, claim.image, "image/png", Timings(), True, nothing)
    job = await queue.get(job_id)
    assert (job.status, job.no_op, job.plan) == (JobStatus.SUCCEEDED, True, nothing)
    assert await queue.result_of(job_id) == IMAGE
    assert (await queue.depth())[Stage.PLAN].running == 0


async def test_a_dead_consumers_job_is_taken_over_and_only_one_result_is_kept(
    queue: JobQueue,
) -> None:
    job_id = await submit(queue)
    first = await claim_one(queue, "first")
    second = await claim_one(queue, "second")
    assert (second.job.id, second.delivery, second.job.attempt) == (job_id, 2, 2)
    # The first wakes up late: whatever it does changes nothing.
    assert await queue.renew([first]) == {first}
    assert not await queue.report(first, PROGRESS)
    assert not await complete(queue, first, b"late result")
    assert not await queue.fail(first, FAILURE)
    assert not await queue.release(first)
    assert (await queue.get(job_id)).status is JobStatus.RUNNING
    assert await complete(queue, second, b"result")
    assert not await complete(queue, second, b"again")
    assert not await complete(queue, first, b"much later result")
    assert await queue.result_of(job_id) == b"result"


async def test_a_consumer_that_wins_its_own_job_again_has_lost_the_old_claim(
    queue: JobQueue,
) -> None:
    await submit(queue)
    old = await claim_one(queue, "same")
    new = await claim_one(queue, "same")
    assert await queue.renew([old, new]) == {old}
    assert not await complete(queue, old)
    assert await complete(queue, new)


async def test_a_renewed_claim_is_not_taken_over(queue: JobQueue) -> None:
    await submit(queue)
    claim = await claim_one(queue, "slow")
    end = time.monotonic() + 3 * queue.settings.lease_s
    while time.monotonic() < end:
        assert await queue.renew([claim]) == set()
        assert await queue.claim(Stage.RUN, "thief", block_s=0.02) == []
    assert await complete(queue, claim)


async def test_a_released_claim_is_taken_at_once_and_was_no_delivery(redis_url: str) -> None:
    settings = QueueSettings(lease_s=1000.0)
    stopping, staying = (JobQueue.connect(redis_url, settings) for _ in range(2))
    await submit(stopping)
    claim = await claim_one(stopping, "stopping")
    assert await stopping.release(claim)
    assert (await stopping.get(claim.job.id)).status is JobStatus.QUEUED
    again = await claim_one(staying, "staying")
    assert (again.job.id, again.delivery) == (claim.job.id, 1)
    await stopping.close()
    await staying.close()


async def test_a_job_that_ends_its_workers_is_given_up(queue: JobQueue) -> None:
    job_id = await submit(queue)
    for attempt in range(queue.settings.max_deliveries):
        claim = await claim_one(queue, f"worker {attempt}")
        assert (claim.job.id, claim.job.attempt) == (job_id, attempt + 1)
    good_id = await submit(queue)
    await asyncio.wait_for(_work_until_final(queue, job_id, good_id), 2.0)
    assert await queue.result_of(good_id) == b"result"
    job = await queue.get(job_id)
    assert job.status is JobStatus.FAILED
    assert job.error is not None and job.error.code == "edit_failed"
    [(_, letter)] = await queue.redis.xrange("test:dead")
    assert job_id.encode() in letter[b"letter"]
    assert await queue.input_of(job_id) == IMAGE


async def _work_until_final(queue: JobQueue, *job_ids: str) -> None:
    while not all([(await queue.get(job_id)).status.is_final for job_id in job_ids]):
        for claim in await queue.claim(Stage.RUN, "healthy", block_s=0.02):
            await complete(queue, claim)


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


async def test_a_full_queue_refuses_and_a_free_place_admits(queue: JobQueue) -> None:
    await submit(queue)
    jobs = [make_job(plan=PLAN if i % 2 else None) for i in range(20)]
    outcomes = await asyncio.gather(
        *(queue.submit(job, IMAGE) for job in jobs), return_exceptions=True
    )
    refusals = [o for o in outcomes if isinstance(o, errors.Overloaded)]
    assert len(refusals) == 21 - queue.settings.max_depth
    assert all(refusal.retry_after_s >= 1 for refusal in refusals)
    await claim_one(queue)  # what is claimed does not wait
    await submit(queue)
    with pytest.raises(errors.Overloaded):
        await submit(queue)


async def test_a_job_sent_twice_is_queued_once(queue: JobQueue) -> None:
    job = make_job()
    await queue.submit(job, IMAGE)
    await queue.submit(job, IMAGE)
    assert (await queue.depth())[Stage.RUN].waiting == 1


def test_retry_after_follows_the_rate_of_the_last_finishes() -> None:
    assert retry_after_s(waiting=100, now=10_000, newest=9_900, oldest=900, num=10) == 10
    assert retry_after_s(waiting=100, now=10_000, newest=9_900, oldest=9_000, num=10) == 1
    assert retry_after_s(waiting=100, now=90_000, newest=9_900, oldest=900, num=10) == 60


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


async def test_workers_are_listed_while_they_beat(queue: JobQueue) -> None:
    await queue.heartbeat(WorkerInfo(name="a", role="worker", free_slots=3))
    await queue.heartbeat(WorkerInfo(name="b", role="selector"))
    assert [(w.name, w.free_slots) for w in await queue.workers()] == [("a", 3), ("b", 0)]
    await queue.goodbye("b")
    assert [w.name for w in await queue.workers()] == ["a"]
    give_up_at = time.monotonic() + 2.0
    while await queue.workers():
        assert time.monotonic() < give_up_at
        await asyncio.sleep(0.02)


async def test_goodbye_keeps_claims_that_were_not_given_up(queue: JobQueue) -> None:
    job_id = await submit(queue)
    await claim_one(queue, "leaving")
    await queue.goodbye("leaving")
    assert (await claim_one(queue, "other")).job.id == job_id


async def test_an_absent_redis_is_named(queue_settings: QueueSettings) -> None:
    queue = JobQueue.connect("unix:///nowhere/redis.sock", queue_settings)
    with pytest.raises(errors.QueueUnavailable):
        await queue.get("any")
    with pytest.raises(errors.QueueUnavailable):
        await queue.claim(Stage.RUN, "worker")
    with pytest.raises(errors.QueueUnavailable):
        await queue.submit(make_job(), IMAGE)
    await queue.close()


async def test_a_checkpoint_waits_for_the_next_attempt_and_goes_with_the_job(
    queue: JobQueue,
) -> None:
    await submit(queue)
    first = await claim_one(queue, "first")
    assert first.checkpoint is None
    assert await queue.save(first, Checkpoint(1, b"one"))
    assert await queue.save(first, Checkpoint(2, b"two"))
    second = await claim_one(queue, "second")
    assert second.checkpoint == Checkpoint(2, b"two")
    assert not await queue.save(first, Checkpoint(3, b"late"))
    key = f"test:checkpoint:{first.job.id}"
    assert 0 < await queue.redis.ttl(key) <= queue.settings.result_ttl_s
    assert await complete(queue, second)
    assert not await queue.redis.exists(key)


async def test_a_canceled_job_leaves_no_checkpoint(queue: JobQueue) -> None:
    job_id = await submit(queue)
    await queue.save(await claim_one(queue), Checkpoint(1, b"one"))
    await queue.cancel(job_id)
    assert not await queue.redis.exists(f"test:checkpoint:{job_id}")


async def submit_as(queue: JobQueue, priority: Priority) -> str:
    request = EditRequest(plugins=("derain",), priority=priority)
    return (await queue.submit(Job(request=request, plan=PLAN), IMAGE)).id


async def test_better_priorities_are_claimed_first(redis_url: str) -> None:
    queue = JobQueue.connect(redis_url, QueueSettings(prefix="test", ageing_s=1000.0))
    ids = [await submit_as(queue, priority) for priority in reversed(Priority) for _ in range(2)]
    low, normal, high = ids[:2], ids[2:4], ids[4:]
    depth = (await queue.depth())[Stage.RUN]
    assert depth.waiting_by_priority == {priority: 2 for priority in Priority}
    claims = await queue.claim(Stage.RUN, "worker", count=5)
    claims += await queue.claim(Stage.RUN, "worker", count=5)
    assert [claim.job.id for claim in claims] == [*high, *normal, *low]
    assert [await complete(queue, claim) for claim in claims] == 6 * [True]
    await queue.close()


async def test_a_low_job_that_has_waited_goes_before_a_high_one_that_just_came(
    redis_url: str,
) -> None:
    queue = JobQueue.connect(redis_url, QueueSettings(prefix="test", ageing_s=0.05))
    low_id = await submit_as(queue, Priority.LOW)
    end = time.monotonic() + 2 * 0.05 + 0.02
    served = []
    while low_id not in served:  # high jobs keep coming, two for each that is served
        await submit_as(queue, Priority.HIGH)
        await submit_as(queue, Priority.HIGH)
        [claim] = await queue.claim(Stage.RUN, "worker")
        assert await complete(queue, claim)
        served.append(claim.job.id)
        assert time.monotonic() < end + 1.0
    assert (await queue.depth())[Stage.RUN].waiting > len(served) - 1
    await queue.close()


async def test_a_waiting_consumer_is_woken_by_a_job_of_any_priority(queue: JobQueue) -> None:
    for priority in Priority:
        waiting = asyncio.create_task(queue.claim(Stage.RUN, "worker", count=2, block_s=1.0))
        await asyncio.sleep(0)
        job_id = await submit_as(queue, priority)
        [claim] = await asyncio.wait_for(waiting, 2.0) or await queue.claim(Stage.RUN, "worker")
        assert claim.job.id == job_id


async def test_the_same_key_is_the_same_job_and_another_request_is_refused(
    queue: JobQueue,
) -> None:
    once = OnceKey("key", "digest")
    first = await queue.submit(make_job(), IMAGE, once)
    again = await queue.submit(make_job(), IMAGE, once)
    assert again.id == first.id
    assert (await queue.depth())[Stage.RUN].waiting == 1
    with pytest.raises(errors.InvalidRequest, match="Idempotency-Key"):
        await queue.submit(make_job(), IMAGE, OnceKey("key", "another digest"))
    other = await queue.submit(make_job(), IMAGE, OnceKey("other key", "digest"))
    assert other.id != first.id
    await queue.redis.delete(f"test:job:{first.id}")
    assert (await queue.submit(make_job(), IMAGE, once)).id != first.id


async def test_one_of_many_with_the_same_key_is_queued_even_if_the_queue_is_full(
    queue: JobQueue,
) -> None:
    jobs = await asyncio.gather(
        *(queue.submit(make_job(), IMAGE, OnceKey("key", "digest")) for _ in range(20))
    )
    assert len({job.id for job in jobs}) == 1
    assert (await queue.depth())[Stage.RUN].waiting == 1
