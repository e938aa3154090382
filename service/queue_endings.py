"""Hears when jobs end: one subscription for everybody in this process who waits for a job.

Redis tells it once, and only who listens. So whoever waits looks now and then all the same.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterator

from redis import exceptions
from redis.asyncio import Redis

log = logging.getLogger(__name__)

LISTEN_S = 1.0  # how long a listener without listeners goes on
NUM_HEARD = 1024  # ends that are remembered for whoever asks a moment later


class Endings:
    """`channel_prefix` and a job's id is the channel that its end is published on."""

    def __init__(self, redis: Redis, channel_prefix: str) -> None:
        self._redis, self._prefix = redis, channel_prefix
        self._waiting: dict[str, set[asyncio.Future[bytes]]] = defaultdict(set)
        self._heard: dict[str, bytes] = {}  # what was told, oldest first
        self._listener: asyncio.Task[None] | None = None
        self._is_listening = asyncio.Event()
        self._listening_since = math.inf  # Unix seconds

    @contextlib.contextmanager
    def of(self, job_id: str) -> Iterator["asyncio.Future[bytes]"]:
        """A future that is done once the job has ended, with the job as JSON. Ends from
        before it listened are not heard, so look at the job after.
        """
        future = asyncio.get_running_loop().create_future()
        self._waiting[job_id].add(future)
        if job_id in self._heard:
            future.set_result(self._heard[job_id])
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._listen())
        try:
            yield future
        finally:
            future.cancel()
            self._waiting[job_id].discard(future)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    def has_heard_since(self, at: float) -> bool:
        """Whether no end after `at`, in Unix seconds, was missed."""
        return self._listening_since < at

    async def listening(self, timeout_s: float) -> None:
        """Until it hears; who waits without it only waits longer."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_listening.wait(), timeout_s)

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait({self._listener}, timeout=2 * LISTEN_S)

    async def _listen(self) -> None:
        """As long as somebody waits. An outage ends it; the next who waits starts it again."""
        try:
            async with self._redis.pubsub() as pubsub:
                await pubsub.psubscribe(f"{self._prefix}*")
                while self._waiting:
                    message = await pubsub.get_message(timeout=LISTEN_S)
                    if message is None:
                        continue
                    if message["type"] == "psubscribe":
                        self._is_listening.set()
                        self._listening_since = time.time()
                    elif message["type"] == "pmessage":
                        channel = message["channel"].decode()
                        self._tell(channel.removeprefix(self._prefix), message["data"])
        except (exceptions.RedisError, OSError) as error:
            log.warning("ends of jobs are not heard, only looked for: %s", error)
        finally:
            self._is_listening.clear()
            self._listening_since = math.inf
            self._heard.clear()

    def _tell(self, job_id: str, told: bytes) -> None:
        self._heard[job_id] = told
        if len(self._heard) > NUM_HEARD:
            del self._heard[next(iter(self._heard))]
        for future in self._waiting.get(job_id, ()):
            if not future.done():
                future.set_result(told)
