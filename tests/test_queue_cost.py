"""Jobs that have passed leave nothing in Redis, and the last cost what the first did."""

import pytest

from loadtests.queue_cost import MOST_GROWTH, measure
from service.redis_server import PrivateRedis


async def check(num_jobs: int) -> None:
    with PrivateRedis() as redis:
        report = await measure(redis.url, num_jobs)
    assert report.memory_growth <= MOST_GROWTH, report
    assert report.keys_left <= 0, report
    assert report.commands_ratio <= 1.05, report


@pytest.mark.slow
async def test_a_thousand_jobs_leave_no_memory_behind() -> None:
    await check(1000)


@pytest.mark.full
@pytest.mark.timeout(900)
async def test_ten_thousand_jobs_leave_no_memory_behind() -> None:
    await check(10_000)
