"""Which job is next, on a real Redis: priorities and ageing."""

import asyncio
import time

from service.job_queue import JobQueue, QueueSettings, Stage
from service.jobs import EditRequest, Job, Priority
from tests.queue_jobs import IMAGE, PLAN, complete


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
