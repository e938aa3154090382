"""The queue's connection: its Redis, its streams and the names of its keys. No job's life here."""

import math
import time
from typing import Any, Self

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from service.jobs import Job, Priority
from service.queue_address import close_redis, open_redis
from service.queue_pictures import Pictures
from service.queue_records import EventKind, QueueSettings, Stage, event_of
from service.queue_streams import SOCKET_TIMEOUT_S, StageStreams, outages_named

MAX_EVENTS = 256  # per job; older ones are trimmed


class QueueConnection:
    """Every method raises QueueUnavailable if Redis does not answer."""

    def __init__(self, redis: Redis, settings: QueueSettings) -> None:
        self.redis, self.settings = redis, settings
        self.pictures = Pictures(settings.pictures_folder, settings.prefix)
        self._streams = {
            stage: StageStreams(
                redis,
                {priority: self.key("stream", stage, priority) for priority in Priority},
                settings.lease_s,
                settings.ageing_s,
            )
            for stage in Stage
        }

    @classmethod
    def connect(cls, url: str, settings: QueueSettings) -> Self:
        """A queue on the Redis at `url`. It connects at first use; close() it."""
        redis = open_redis(
            url,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=2.0,
            retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 2),
            max_connections=10_000,  # every watch holds one
            protocol=2,
            socket_read_size=2**18,  # pictures come in few pieces
        )
        return cls(redis, settings)

    async def close(self) -> None:
        await close_redis(self.redis)

    async def ping(self) -> None:
        with outages_named():
            await self.redis.ping()

    # -- keys and arguments of the scripts -------------------------------------------------------

    def key(self, *parts: str) -> str:
        return ":".join((self.settings.prefix, *parts))

    def _keys_of_job(self, job_id: str) -> list[str]:
        return [self.key(kind, job_id) for kind in ("job", "events", "input")]

    def _stream(self, stage: Stage, job: Job) -> str:
        return self._streams[stage].names[job.request.priority]

    def _head(self, job: Job, kind: EventKind | None = None) -> list[Any]:
        """TTL, most events, event. An open job is kept past its deadline as long as a result."""
        open_s = 0.0 if job.status.is_final else (job.deadline_at or 0.0) - time.time()
        ttl_s = self.settings.result_ttl_s + math.ceil(max(0.0, open_s))
        return [ttl_s, MAX_EVENTS, event_of(job, kind) if kind else ""]

    def call_of(self, job: Job, stage: Stage) -> tuple[list[str], list[Any]]:
        """Keys and arguments that the scripts begin with, for a job that goes to `stage`."""
        keys = [*self._keys_of_job(job.id), self._stream(stage, job)]
        return keys, self._head(job, "status")
