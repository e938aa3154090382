"""Fixtures that several test modules share: a real Redis and a queue on it."""

from collections.abc import AsyncIterator, Iterator

import pytest
import redis

from service.job_queue import JobQueue, QueueSettings
from service.redis_server import PrivateRedis


@pytest.fixture(scope="session")
def redis_server() -> Iterator[PrivateRedis]:
    with PrivateRedis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: PrivateRedis) -> str:
    """Url of an empty Redis."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def queue_settings() -> QueueSettings:
    """A lease short enough to run out within a test."""
    return QueueSettings(prefix="test", lease_s=0.2, max_depth=4, heartbeat_s=0.1)


@pytest.fixture
async def queue(redis_url: str, queue_settings: QueueSettings) -> AsyncIterator[JobQueue]:
    queue = JobQueue.connect(redis_url, queue_settings)
    yield queue
    await queue.close()
