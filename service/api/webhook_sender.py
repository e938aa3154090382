"""Follows jobs that have a webhook and tells it what happens. Any api process may do it.

Jobs to follow lie in a Redis stream with leases; how far a job was told is kept beside it. So a
process that ends loses nothing, and at worst tells one event twice, under the same webhook-id.
"""

import asyncio
import contextlib
import json
import logging
import socket
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from redis import exceptions

from service.api.webhook_delivery import Delivery
from service.errors import JobNotFound, QueueUnavailable
from service.job_queue import JobQueue
from service.jobs import Job
from service.queue_records import Event
from service.queue_streams import outages_named
from service.settings import Settings

log = logging.getLogger(__name__)

GROUP = "webhooks"
MAX_FOLLOWED = 256
BLOCK_S = 0.3
LEASE_S = 30.0
PROGRESS_EVERY_S = 0.5


class WebhookSender:
    """run() until the stop is set. There is no cancel: redis-py on Python 3.11 may swallow one."""

    def __init__(self, queue: JobQueue, settings: Settings) -> None:
        self._queue, self._redis = queue, queue.redis
        self._stop = asyncio.Event()
        self._delivery = Delivery(settings, self._stop)
        self._stream = queue.key("webhooks")
        self._name = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        self._followed: dict[bytes, asyncio.Task[None]] = {}
        self._renew_at = 0.0

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        while not self._stop.is_set():
            try:
                with outages_named():
                    await self._turn()
            except (QueueUnavailable, exceptions.RedisError) as error:
                log.warning("webhooks must wait: %s", error)
                await asyncio.sleep(BLOCK_S)
        await asyncio.gather(*self._followed.values())
        await self._delivery.close()

    async def _turn(self) -> None:
        """Take up jobs that nobody follows, and keep the leases of those that are followed."""
        with contextlib.suppress(exceptions.ResponseError):  # the group is there
            await self._redis.xgroup_create(self._stream, GROUP, id="0", mkstream=True)
        room = MAX_FOLLOWED - len(self._followed)
        entries: list[Any] = []
        if time.monotonic() >= self._renew_at:
            self._renew_at = time.monotonic() + LEASE_S / 3
            await self._renew()
            lost = await self._redis.xautoclaim(
                self._stream, GROUP, self._name, int(1000 * LEASE_S), "0", count=max(1, room)
            )
            entries += lost[1]
        if room > 0:
            new: Any = await self._redis.xreadgroup(
                GROUP, self._name, {self._stream: ">"}, count=room, block=int(1000 * BLOCK_S)
            )
            entries += [entry for _, found in new or () for entry in found]
        else:
            await asyncio.sleep(BLOCK_S)
        for entry_id, fields in entries:
            if entry_id not in self._followed:
                task = asyncio.create_task(self._follow(entry_id, fields[b"job"].decode()))
                self._followed[entry_id] = task

    async def _renew(self) -> None:
        if self._followed:
            ids: list[Any] = list(self._followed)
            await self._redis.xclaim(self._stream, GROUP, self._name, 0, ids, justid=True)

    async def _release(self, entry_id: bytes) -> None:
        """Idle for a day: whoever asks next takes it."""
        ids: list[Any] = [entry_id]
        await self._redis.xclaim(
            self._stream, GROUP, "released", 0, ids, idle=86_400_000, justid=True
        )

    async def _follow(self, entry_id: bytes, job_id: str) -> None:
        """Tell all that is left to tell of a job; one job's trouble is its own."""
        try:
            if await self._tell(job_id):
                async with self._redis.pipeline(transaction=True) as pipe:
                    pipe.xack(self._stream, GROUP, entry_id)
                    pipe.xdel(self._stream, entry_id)
                    pipe.delete(self._told_key(job_id))
                    await pipe.execute()
            else:
                await self._release(entry_id)
        except (QueueUnavailable, exceptions.RedisError) as error:
            log.warning("the webhook of job %s must wait: %s", job_id, error)
        except Exception:
            log.exception("the webhook of job %s failed", job_id)
        finally:
            self._followed.pop(entry_id, None)

    async def _tell(self, job_id: str) -> bool:
        """True once the job's end was told, or there is nobody and nothing to tell."""
        told = self._told_key(job_id)
        known: Any = await self._redis.get(told)
        after = known.decode() if known else "0"
        last_progress_at = 0.0
        try:
            job = await self._queue.get(job_id)
            async for event_id, event in self._queue.watch(job_id, after, self._stop):
                kind = kind_of(event)
                is_due = time.monotonic() >= last_progress_at + PROGRESS_EVERY_S
                if kind not in job.request.webhook_events_filter or not (
                    kind != "progress" or is_due
                ):
                    continue
                if not await self._send(job_id, event_id, kind, event):
                    return False
                if kind == "progress":
                    last_progress_at = time.monotonic()
                await self._redis.set(told, event_id, ex=self._queue.settings.result_ttl_s)
        except JobNotFound:
            return True  # it was forgotten
        return not self._stop.is_set()

    async def _send(self, job_id: str, event_id: str, kind: str, event: Event) -> bool:
        job = await self._queue.get(job_id)
        body = json.dumps(body_of(job, kind, event)).encode()
        return await self._delivery.send(job.request.webhook or "", f"{job_id}.{event_id}", body)

    def _told_key(self, job_id: str) -> str:
        return self._queue.key("webhook", job_id)


@contextlib.asynccontextmanager
async def sending_webhooks(queue: JobQueue, settings: Settings) -> AsyncIterator[None]:
    """A sender in this event loop."""
    sender = WebhookSender(queue, settings)
    running = asyncio.create_task(sender.run())
    try:
        yield
    finally:
        sender.stop()
        await running


async def follow(queue: JobQueue, job_id: str) -> None:
    """Have some sender tell the webhook of a job."""
    with outages_named():
        await queue.redis.xadd(queue.key("webhooks"), {"job": job_id})


def kind_of(event: Event) -> str:
    """The event's name in `webhook_events_filter`; empty if it is none of them."""
    if event.status.is_final:
        return "completed"
    if event.kind == "status":
        return "start" if event.status == "running" else ""
    return event.kind


def body_of(job: Job, kind: str, event: Event) -> dict[str, Any]:
    """The job at that event, without pictures; `result` is where to fetch the image."""
    record = job.model_dump(mode="json", exclude={"request": {"webhook"}})
    record["status"], record["progress"] = event.status.value, None
    if event.progress is not None:
        record["progress"] = event.progress.model_dump(mode="json")
    has_result = event.status == "succeeded"
    record["result"] = f"/v1/edits/{job.id}/result" if has_result else None
    return {"type": f"edit.{kind}", "timestamp": event.at, "data": record}
