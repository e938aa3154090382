"""Fixtures that several test modules share: a real Redis and a queue on it."""

from collections.abc import AsyncIterator, Iterator

import pytest
import redis

from service.job_queue import JobQueue, QueueSettings
from service.redis_server import PrivateRedis

LEFT_OUT = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the tests marked full too: minutes")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without --full, leave out what takes minutes; the report says how many tests that are."""
    if config.getoption("full"):
        return
    left_out = [item for item in items if item.get_closest_marker("full")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)
    config.stash[LEFT_OUT] = len(left_out)


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    num = config.stash.get(LEFT_OUT, 0)
    return [f"{num} tests marked full are left out; pytest --full runs them"] if num else []


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
