"""Addresses of a Redis: URLs of one server, and sentinels, which name another master in time."""

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from service.errors import InvalidRequest, JobNotFound, QueueUnavailable
from service.job_queue import JobQueue, QueueSettings
from service.launch import free_port
from service.queue_address import SentinelAddress, open_redis
from service.redis_server import find_redis_server
from tests.queue_jobs import IMAGE, claim_one, complete, make_job

FAILOVER_TIMEOUT_S = 60.0


def test_sentinels_are_read_from_the_address() -> None:
    url = "redis+sentinel://me:p%40ss@one:1,two,[::1]:3/main/5"
    hosts = (("one", 1), ("two", 26379), ("::1", 3))
    assert SentinelAddress.parse(url) == SentinelAddress(hosts, "main", 5, "me", "p@ss")
    assert SentinelAddress.parse("redis+sentinel://one/main").database == 0


@pytest.mark.parametrize("url", ["redis://one:6379/2", "rediss://one", "unix:///tmp/a.sock?db=1"])
def test_urls_of_one_server_are_taken(url: str) -> None:
    open_redis(url)


@pytest.mark.parametrize(
    "url",
    [
        "one:6379", "http://one", "redis+sentinel://one", "redis+sentinel:///main",
        "redis+sentinel://one:x/main", "redis+sentinel://one/main/two",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_the_forms(url: str) -> None:
    with pytest.raises(InvalidRequest, match="is no address of a Redis; write redis://"):
        open_redis(url)


@contextlib.contextmanager
def running(folder: Path, port: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    folder.mkdir(exist_ok=True)
    (folder / "conf").touch()
    command = [find_redis_server(), str(folder / "conf"), "--port", str(port), *options]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--bind", "127.0.0.1", "--dir", str(folder)], stdout=log
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def answer(port: int, *command: str) -> str:
    with redis.Redis(port=port) as client:
        return str(client.execute_command(*command))


def until(condition: object) -> None:
    assert callable(condition)
    give_up_at = time.monotonic() + FAILOVER_TIMEOUT_S
    while True:
        with contextlib.suppress(redis.RedisError):
            if condition():
                return
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


@pytest.mark.slow
async def test_a_queue_follows_its_sentinels_to_another_master(tmp_path: Path) -> None:
    master, replica, sentinel = free_port(), free_port(), free_port()
    config = (
        f"sentinel monitor main 127.0.0.1 {master} 1\n"
        "sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n"
    )
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "conf").write_text(config)
    with (
        running(tmp_path / "a", master) as first,
        running(tmp_path / "b", replica, "--replicaof", "127.0.0.1", str(master)),
    ):
        until(lambda: "'master_link_status': 'up'" in answer(replica, "INFO", "replication"))
        with running(tmp_path / "s", sentinel, "--sentinel"):
            until(lambda: str(replica) in answer(sentinel, "SENTINEL", "REPLICAS", "main"))
            url = f"redis+sentinel://127.0.0.1:{sentinel}/main"
            queue = JobQueue.connect(url, QueueSettings(prefix="test"))
            job = await queue.submit(make_job(), IMAGE)
            await queue.redis.wait(1, 5000)
            first.kill()
            async with asyncio.timeout(FAILOVER_TIMEOUT_S):
                while True:
                    with contextlib.suppress(QueueUnavailable, JobNotFound):
                        claim = await claim_one(queue)
                        break
                    await asyncio.sleep(0.1)
            assert claim.job.id == job.id
            assert await complete(queue, claim)
            await queue.close()
