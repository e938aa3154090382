"""Where a job stands among those that wait, and how long the next one has waited."""

import asyncio
from dataclasses import replace

from service.job_queue import JobQueue, QueueSettings, Stage
from service.jobs import EditRequest, Job, Plan, PlannedTask, Priority

PLAN = Plan(tasks=(PlannedTask(plugin="derain"),))


async def submit(queue: JobQueue, priority: Priority = Priority.NORMAL) -> Job:
    job = Job(request=EditRequest(priority=priority), plan=PLAN)
    return await queue.submit(job, b"image")


async def place_of(queue: JobQueue, job: Job) -> int | None:
    return (await queue.placed(await queue.get(job.id))).queue_position


async def test_places_follow_priority_and_arrival(queue: JobQueue) -> None:
    low = await submit(queue, Priority.LOW)
    first, second = await submit(queue), await submit(queue)
    assert [await place_of(queue, job) for job in (first, second, low)] == [1, 2, 3]
    (claim,) = await queue.claim(Stage.RUN, "worker")
    assert claim.job.id == first.id
    assert await place_of(queue, first) is None  # it runs
    assert await place_of(queue, second) == 1


async def test_jobs_of_one_millisecond_stand_in_the_order_of_their_arrival(
    redis_url: str, queue_settings: QueueSettings
) -> None:
    queue = JobQueue.connect(redis_url, replace(queue_settings, max_depth=100))
    jobs = [await submit(queue) for _ in range(60)]
    assert [await place_of(queue, job) for job in jobs] == list(range(1, 61))
    await queue.close()


async def test_lag_is_the_wait_of_the_next_job(queue: JobQueue) -> None:
    assert (await queue.depth())[Stage.RUN].lag_s_by_priority[Priority.NORMAL] == 0
    await submit(queue)
    async with asyncio.timeout(5):
        while (await queue.depth())[Stage.RUN].lag_s_by_priority[Priority.NORMAL] <= 0.02:
            await asyncio.sleep(0.01)
    await queue.claim(Stage.RUN, "worker")
    assert (await queue.depth())[Stage.RUN].lag_s_by_priority[Priority.NORMAL] == 0
