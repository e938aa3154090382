"""One stage of the job queue as a Redis stream: which entry is delivered to whom."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from redis import exceptions
from redis.asyncio import Redis

from service import queue_scripts as scripts
from service.errors import QueueUnavailable
from service.queue_records import StageDepth

GROUP = "diffplugin"
# Blocking reads must end before the socket's timeout.
SOCKET_TIMEOUT_S = 15.0
MAX_BLOCK_S = 5.0
_OUTAGES = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.OutOfMemoryError,
    exceptions.ReadOnlyError,
    OSError,
)


@contextmanager
def outages_named() -> Iterator[None]:
    """Turn what a Redis that is away raises into QueueUnavailable; bugs pass as they are."""
    try:
        yield
    except _OUTAGES as error:
        raise QueueUnavailable(f"Redis does not answer: {error}") from error


class Delivery(NamedTuple):
    """An entry given to a consumer; `number` counts how often, from 1."""

    entry: str
    job_id: str
    number: int


class StageStream:
    """Leases are the group's idle times; only this class knows when they ran out."""

    def __init__(self, redis: Redis, name: str, lease_s: float) -> None:
        self.redis, self.name, self.lease_s = redis, name, lease_s
        self._next_reclaim_at = 0.0
        self._reclaim_script = redis.register_script(scripts.RECLAIM)

    async def deliver(self, consumer: str, count: int, block_s: float) -> list[Delivery]:
        """Up to `count` entries: first those whose lease ran out, then new ones."""
        try:
            return await self._deliver(consumer, count, block_s)
        except exceptions.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
        await self._create_group()
        return await self._deliver(consumer, count, block_s)

    async def drop(self, entry: str) -> None:
        """Acknowledge and delete: an acknowledged entry alone would stay in memory."""
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.xack(self.name, GROUP, entry)
            pipe.xdel(self.name, entry)
            await pipe.execute()

    async def depth(self) -> StageDepth:
        num_entries = await self.redis.xlen(self.name)
        try:
            summary: Any = await self.redis.xpending(self.name, GROUP)
        except exceptions.ResponseError:  # no consumer was ever there
            return StageDepth(num_entries, 0)
        num_claimed: int = summary["pending"]
        return StageDepth(max(0, num_entries - num_claimed), num_claimed)

    async def _deliver(self, consumer: str, count: int, block_s: float) -> list[Delivery]:
        found = await self._reclaim(consumer, count)
        if len(found) < count:
            # While it waits, leases run out.
            wait_s = 0.0 if found else min(block_s, MAX_BLOCK_S, self.lease_s / 4)
            found += await self._read(consumer, count - len(found), wait_s)
        return found

    async def _reclaim(self, consumer: str, count: int) -> list[Delivery]:
        """A few times per lease is often enough."""
        now = time.monotonic()
        if now < self._next_reclaim_at:
            return []
        args: list[Any] = [GROUP, consumer, int(1000 * self.lease_s), count]
        found: Any = await self._reclaim_script([self.name], args)
        if len(found) < count:  # else there may be more
            self._next_reclaim_at = now + min(1.0, self.lease_s / 4)
        return [Delivery(entry.decode(), job_id.decode(), num) for entry, job_id, num in found]

    async def _read(self, consumer: str, count: int, block_s: float) -> list[Delivery]:
        reply: Any = await self.redis.xreadgroup(
            GROUP, consumer, {self.name: ">"}, count=count, block=as_block(block_s)
        )
        entries = reply[0][1] if reply else []
        return [Delivery(entry.decode(), fields[b"job"].decode(), 1) for entry, fields in entries]

    async def _create_group(self) -> None:
        """At id 0, so that jobs queued before the first consumer are delivered too."""
        try:
            await self.redis.xgroup_create(self.name, GROUP, id="0", mkstream=True)
        except exceptions.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise


def as_block(block_s: float) -> int | None:
    """Redis' BLOCK in ms; for Redis 0 means forever, None not at all."""
    return max(1, int(1000 * block_s)) if block_s > 0 else None
