"""The job queue: every job's life in Redis, from submit to result.

Two stages, PLAN (claimed by selectors) and RUN (by workers), each of one stream per priority.
Entries hold the job id alone; the job's state and images lie beside them, every key with a TTL.
A claim is a lease: unless it is renewed, another consumer takes over. Delivery is at least once;
of several ends of one job the first that is written is the only one.
"""

from typing import Any

from redis.asyncio import Redis

from service import queue_scripts as scripts
from service.jobs import WorkerInfo
from service.queue_callers import CallerSide
from service.queue_consumers import ConsumerSide
from service.queue_records import Claim, Event, QueueSettings, Stage, StageDepth, error_of
from service.queue_streams import GROUP, outages_named

__all__ = ["Claim", "Event", "JobQueue", "QueueSettings", "Stage", "StageDepth", "error_of"]


class JobQueue(CallerSide, ConsumerSide):
    """Both sides, and who is alive."""

    def __init__(self, redis: Redis, settings: QueueSettings) -> None:
        super().__init__(redis, settings)
        self._forget_consumer = redis.register_script(scripts.FORGET_CONSUMER)

    async def heartbeat(self, info: WorkerInfo) -> None:
        """Say that a worker or selector lives; it is forgotten after three missed heartbeats."""
        life_ms = int(3000 * self.settings.heartbeat_s)
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.set(self.key("worker", info.name), info.model_dump_json(), px=life_ms)
            pipe.sadd(self.key("workers"), info.name)
            pipe.expire(self.key("workers"), 24 * 3600)
            with outages_named():
                await pipe.execute()

    async def workers(self) -> list[WorkerInfo]:
        """Workers and selectors that are alive, by name."""
        with outages_named():
            names = sorted(name.decode() for name in await self._members("workers"))
            if not names:
                return []
            states = await self.redis.mget([self.key("worker", name) for name in names])
            dead = [name for name, state in zip(names, states, strict=True) if state is None]
            if dead:
                await self.redis.srem(self.key("workers"), *dead)
        return [WorkerInfo.model_validate_json(state) for state in states if state is not None]

    async def goodbye(self, name: str) -> None:
        """Forget a worker or selector that has given up its claims."""
        streams = [name for stage in self._streams.values() for name in stage.names.values()]
        with outages_named():
            await self.redis.delete(self.key("worker", name))
            await self.redis.srem(self.key("workers"), name)
            await self._forget_consumer(streams, [GROUP, name])

    async def _members(self, name: str) -> set[bytes]:
        members: Any = await self.redis.smembers(self.key(name))
        return set(members)
