"""One stage of the job queue as Redis streams, one per priority: what is delivered to whom."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from redis import exceptions
from redis.asyncio import Redis

from service import queue_scripts as scripts
from service.errors import QueueUnavailable
from service.jobs import Priority
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

    stream: str
    entry: str
    job_id: str
    number: int


class StageStreams:
    """Leases are the groups' idle times; only this class knows when they ran out.

    `names` are the streams by priority; `ageing_s` is how much longer a job of the next lower class
    may wait than one that came later.
    """

    def __init__(
        self, redis: Redis, names: Mapping[Priority, str], lease_s: float, ageing_s: float
    ) -> None:
        self.redis, self.names = redis, names
        self.lease_s, self.ageing_s = lease_s, ageing_s
        self._keys = [names[priority] for priority in Priority]
        self._next_reclaim_at = 0.0
        self._reclaim_script = redis.register_script(scripts.RECLAIM)
        self._read_script = redis.register_script(scripts.READ)
        self._depth_script = redis.register_script(scripts.DEPTH)

    async def deliver(self, consumer: str, count: int, block_s: float) -> list[Delivery]:
        """Up to `count` entries: first those whose lease ran out, then new ones."""
        try:
            return await self._deliver(consumer, count, block_s)
        except exceptions.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
        await self._create_groups()
        return await self._deliver(consumer, count, block_s)

    async def drop(self, delivery: Delivery) -> None:
        """Acknowledge and delete: an acknowledged entry alone would stay in memory."""
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.xack(delivery.stream, GROUP, delivery.entry)
            pipe.xdel(delivery.stream, delivery.entry)
            await pipe.execute()

    async def depth(self) -> StageDepth:
        found: Any = await self._depth_script(self._keys, [GROUP])
        by_priority = dict(zip(Priority, found, strict=True))
        waiting = {priority: num for priority, (num, _, _) in by_priority.items()}
        lags_s = {priority: wait_ms / 1000 for priority, (_, _, wait_ms) in by_priority.items()}
        running = sum(num for _, num, _ in by_priority.values())
        return StageDepth(sum(waiting.values()), running, waiting, lags_s)

    async def position(self, job_id: str) -> int | None:
        """Place of a job among those that wait, 1 for the next; None if it does not."""
        ranked: list[tuple[float, bytes]] = []
        for place, name in enumerate(self._keys):
            for entry, fields in await self._waiting(name):
                ranked.append((_arrival_s(entry) + place * self.ageing_s, fields[b"job"]))
        ranked.sort(key=lambda entry: entry[0])  # those of one millisecond stay in their order
        order = [job for _, job in ranked]
        return order.index(job_id.encode()) + 1 if job_id.encode() in order else None

    async def _waiting(self, stream: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """Entries that nobody was given yet, oldest first."""
        try:
            groups: Any = await self.redis.xinfo_groups(stream)
        except exceptions.ResponseError:  # nothing was ever queued
            return []
        last = {group["name"]: group["last-delivered-id"] for group in groups}
        after = last.get(GROUP.encode(), b"0-0").decode()
        entries: Any = await self.redis.xrange(stream, f"({after}")
        return list(entries)

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
        found: Any = await self._reclaim_script(self._keys, args)
        if len(found) < count:  # else there may be more
            self._next_reclaim_at = now + min(1.0, self.lease_s / 4)
        return [Delivery(s.decode(), e.decode(), job.decode(), num) for s, e, job, num in found]

    async def _read(self, consumer: str, count: int, block_s: float) -> list[Delivery]:
        """New entries, most urgent first; if there are none, waits until one comes."""
        args: list[Any] = [GROUP, consumer, count, int(1000 * self.ageing_s)]
        found, last_ids = await self._read_script(self._keys, args)
        if not found and block_s > 0:
            # Waits without taking: a blocking XREADGROUP takes up to `count` of every stream.
            seen: dict[Any, Any] = dict(zip(self._keys, last_ids, strict=True))
            if await self.redis.xread(seen, count=1, block=as_block(block_s)):
                found, _ = await self._read_script(self._keys, args)
        return [Delivery(s.decode(), e.decode(), job.decode(), 1) for s, e, job in found]

    async def _create_groups(self) -> None:
        """At id 0, so that jobs queued before the first consumer are delivered too."""
        for name in self._keys:
            try:
                await self.redis.xgroup_create(name, GROUP, id="0", mkstream=True)
            except exceptions.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise


def _arrival_s(entry: bytes) -> float:
    """When an entry was written, in the Unix time of Redis."""
    return int(entry.split(b"-")[0]) / 1000


def as_block(block_s: float) -> int | None:
    """Redis' BLOCK in ms; for Redis 0 means forever, None not at all."""
    return max(1, int(1000 * block_s)) if block_s > 0 else None
