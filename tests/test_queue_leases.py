"""Leases on a real Redis: takeovers, renewals, releases, retries, and who is alive."""

import asyncio
import time

from service.job_queue import JobQueue, QueueSettings, Stage
from service.jobs import (
    JobStatus,
    WorkerInfo,
)
from service.queue_letters import DeadLetters
from service.queue_records import Checkpoint, retry_pause_s
from tests.queue_jobs import FAILURE, IMAGE, PLAN, PROGRESS, claim_one, complete, submit


async def test_a_plan_is_handed_on_once(queue: JobQueue) -> None:
    await submit(queue, plan=None)
    late = await claim_one(queue, "late", Stage.PLAN)
    quick = await claim_one(queue, "quick", Stage.PLAN)
    assert await queue.planned(quick, PLAN, plan_s=0.1)
    assert not await queue.planned(late, PLAN, plan_s=0.1)
    assert (await queue.depth())[Stage.RUN].waiting == 1


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


async def test_a_fault_is_retried_after_a_pause_and_given_up_with_its_error(
    redis_url: str,
) -> None:
    settings = QueueSettings(prefix="test", lease_s=1.0, retry_backoff_s=0.2)
    queue = JobQueue.connect(redis_url, settings)
    job_id = await submit(queue)
    for attempt in range(1, settings.max_deliveries + 1):
        began = time.monotonic()
        claim = await claim_one(queue, f"worker {attempt}")
        assert (claim.job.id, claim.delivery) == (job_id, attempt)
        if attempt > 1:
            assert 0.1 * 2 ** (attempt - 2) <= time.monotonic() - began < settings.lease_s
        assert await queue.retry(claim, FAILURE)
        assert not await queue.retry(claim, FAILURE)
    job = await queue.get(job_id)
    assert job.status is JobStatus.FAILED
    assert job.error is not None and FAILURE.detail in job.error.detail
    [letter] = await DeadLetters(queue).all()
    assert (letter.attempts, letter.last_error) == (3, FAILURE.detail)
    await queue.close()


def test_pauses_double_up_to_a_lease_and_differ() -> None:
    settings = QueueSettings(lease_s=20.0, retry_backoff_s=1.0)
    firsts = {retry_pause_s(1, settings) for _ in range(50)}
    assert len(firsts) > 10 and min(firsts) >= 0.5 and max(firsts) <= 1.5
    assert 4.0 <= retry_pause_s(4, settings) <= 12.0
    assert retry_pause_s(20, settings) == 20.0
