"""Commands that are asked for together are sent together, and each gets its own answer."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis import exceptions

from service.job_queue import JobQueue, QueueSettings
from service.jobs import EditRequest, Job, Plan, PlannedTask, Timings
from service.queue_address import open_redis
from service.queue_batching import BatchingRedis
from service.queue_packing import PackedInC
from service.queue_records import Stage
from tests.queue_jobs import PLAN, PROGRESS, claim_one


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[BatchingRedis]:
    client: BatchingRedis = BatchingRedis.from_url(redis_url)
    yield client
    await client.aclose()


async def num_calls(redis: BatchingRedis) -> int:
    """Reads by the server so far: one for all that came in one piece."""
    stats = await redis.info("stats")
    return int(stats["total_reads_processed"])


async def test_many_commands_at_once_take_few_writes_and_keep_their_answers(
    redis: BatchingRedis,
) -> None:
    await redis.ping()
    before = await num_calls(redis)
    await asyncio.gather(*(redis.set(f"key{n}", n) for n in range(60)))
    values = await asyncio.gather(*(redis.get(f"key{n}") for n in range(60)))
    assert values == [str(n).encode() for n in range(60)]
    assert await num_calls(redis) - before < 20


async def test_one_wrong_command_fails_alone(redis: BatchingRedis) -> None:
    await redis.set("text", "a")
    answers = await asyncio.gather(
        redis.incr("number"), redis.incr("text"), redis.incr("number"), return_exceptions=True
    )
    assert answers[0] == 1 and answers[2] == 2
    assert isinstance(answers[1], exceptions.ResponseError)


async def test_a_blocking_command_holds_nobody_up(redis: BatchingRedis) -> None:
    blocked = asyncio.create_task(redis.xread({"stream": "$"}, block=5000))
    async with asyncio.timeout(2):
        await redis.set("key", 1)
    await redis.xadd("stream", {"a": 1})
    assert await blocked


async def test_a_canceled_caller_leaves_the_others_their_answers(redis: BatchingRedis) -> None:
    gone = asyncio.create_task(redis.get("a"))
    kept = asyncio.create_task(redis.set("b", 1))
    await asyncio.sleep(0)
    gone.cancel()
    assert await kept
    assert gone.cancelled() or await asyncio.wait({gone})


async def test_an_outage_is_told_to_all(redis_url: str) -> None:
    client: BatchingRedis = BatchingRedis.from_url("unix:///nowhere/redis.sock")
    answers = await asyncio.gather(client.get("a"), client.get("b"), return_exceptions=True)
    assert all(isinstance(answer, exceptions.ConnectionError) for answer in answers)
    await client.aclose()


async def test_everybody_who_waits_hears_of_the_end_through_one_subscription(
    redis_url: str, queue_settings: QueueSettings
) -> None:
    queue = JobQueue.connect(redis_url, queue_settings)
    plan = Plan(tasks=(PlannedTask(plugin="derain"),))
    jobs = [Job(request=EditRequest(plugins=("derain",)), plan=plan) for _ in range(3)]
    for job in jobs:
        await queue.submit(job, b"picture")
    waiting = [asyncio.create_task(queue.wait(job.id, 10)) for job in jobs]
    claims = await queue.claim(Stage.RUN, "worker", 3, 1.0)
    while not await queue.redis.pubsub_numpat():
        await asyncio.sleep(0.01)
    assert await queue.redis.pubsub_numpat() == 1
    began = asyncio.get_running_loop().time()
    for claim in claims:
        await queue.complete(claim, b"result", "image/png", Timings())
    ended = await asyncio.gather(*waiting)
    assert {job.id for job in ended} == {job.id for job in jobs}
    assert asyncio.get_running_loop().time() - began < 0.9  # heard, not looked up
    assert await queue.result_file(jobs[0].id) == b"result"
    await queue.close()


async def test_commands_are_packed_in_c_and_arrive_as_they_were_meant(redis_url: str) -> None:
    client = open_redis(redis_url)
    assert await client.hset("hash", mapping={"é": "ü", b"\0\xff": 1, "float": 0.5}) == 3
    assert await client.hgetall("hash") == {
        "é".encode(): "ü".encode(),
        b"\0\xff": b"1",
        b"float": b"0.5",
    }
    large = bytes(2**20)
    await asyncio.gather(client.set("large", large), client.config_get("maxmemory"))
    assert await client.get("large") == large
    assert all(isinstance(c, PackedInC) for c in client.connection_pool._available_connections)
    await client.aclose()


async def test_the_end_is_told_with_the_job_as_it_is_kept(queue: JobQueue) -> None:
    """Whoever waits gets the same job as whoever looks: with its last progress, too."""
    for canceled in (False, True):
        job = Job(request=EditRequest(plugins=("derain",)), plan=PLAN)
        await queue.submit(job, b"picture")
        waiting = asyncio.create_task(queue.wait(job.id, 10))
        claim = await claim_one(queue)
        await queue.report(claim, PROGRESS)
        while not await queue.redis.pubsub_numpat():
            await asyncio.sleep(0.01)
        if canceled:
            await queue.cancel(job.id)
        else:
            await queue.complete(claim, b"result", "image/png", Timings())
        ended = await waiting
        assert ended == await queue.get(job.id) and ended.progress == PROGRESS
