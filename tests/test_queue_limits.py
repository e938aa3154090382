"""What the queue refuses, on a real Redis, and the same request sent again."""

import asyncio

import pytest

from service import errors
from service.job_queue import JobQueue, Stage
from service.queue_limits import retry_after_s
from service.queue_records import OnceKey
from tests.queue_jobs import IMAGE, PLAN, claim_one, make_job, submit


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
