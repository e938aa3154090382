"""The callers' side of the job queue: submit, look, wait, cancel, fetch the result."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from typing import Any

import pydantic_core
from redis.asyncio import Redis

from service import queue_scripts as scripts
from service.errors import (
    DeadlineExceeded,
    InvalidRequest,
    JobCanceled,
    JobNotFinished,
    JobNotFound,
    Overloaded,
)
from service.jobs import Job, JobError, JobStatus
from service.queue_connection import MAX_EVENTS, QueueConnection
from service.queue_endings import Endings
from service.queue_limits import Demand, Refusal, Seen, retry_after_s
from service.queue_records import (
    STATUS_OF_ERROR,
    Event,
    OnceKey,
    QueueSettings,
    Stage,
    StageDepth,
    changed,
    changed_fields,
    ended,
    error_of,
    from_fields,
    is_late,
    late_error,
    to_fields,
)
from service.queue_streams import GROUP, as_block, outages_named

WATCH_BLOCK_S = 1.0


class CallerSide(QueueConnection):
    """What the api, the clients of the queue, may do."""

    def __init__(self, redis: Redis, settings: QueueSettings) -> None:
        super().__init__(redis, settings)
        self._submit = redis.register_script(scripts.SUBMIT)
        self._close = redis.register_script(scripts.CLOSE)
        self._endings = Endings(redis, self.key("events", ""))
        self.seen = Seen()  # by the last submission or look

    async def submit(
        self, job: Job, image: bytes, once: OnceKey | None = None, demand: Demand = Demand()
    ) -> Job:
        """Queue a job, for RUN if it has a plan, else for PLAN; Overloaded if the queue is full.

        If a job with the key `once` is known, that one is the answer, or InvalidRequest if it asked
        for something else.
        """
        target = self._stream(Stage.PLAN if job.plan is None else Stage.RUN, job)
        others = [n for s in self._streams.values() for n in s.names.values() if n != target]
        once_key = self.key("once", once.name if once else "")
        keys = [*self._keys_of_job(job.id), target, self.key("finished"), once_key]
        keys += [self.key("load"), *others]
        kept = await self.pictures.keep("input", job.id, image)
        args: list[Any] = [
            *self._head(job, "status"),
            GROUP,
            job.id,
            kept,
            self.settings.max_depth,
            once.digest if once else "",
            demand.work,
            self.settings.max_bytes,
            demand.max_work(self.settings.max_wait_s),
            len(image),
        ]
        with outages_named():
            reply: Any = await self._submit(keys, [*args, *to_fields(job)])
        if len(reply) == 1 and isinstance(reply[0], bytes):
            return await self._earlier(reply[0].decode())
        if len(reply) > 1:
            self.pictures.drop(kept)
            raise self._refused(Refusal.of(reply), demand)
        if reply:
            self.seen = replace(self.seen, waiting=reply[0])
        return job

    def _refused(self, refusal: Refusal, demand: Demand) -> Overloaded:
        error = refusal.error(self.settings, demand)
        self.seen = Seen(refusal.waiting, refusal.retry_after_s)
        return error

    async def look(self) -> None:
        """Bring `seen` up to date."""
        depth = await self.depth()
        with outages_named():
            finished: Any = await self.redis.lrange(self.key("finished"), 0, -1)
        waiting = sum(stage.waiting for stage in depth.values())
        times = [int(at) for at in finished] or [0]
        pause_s = retry_after_s(
            waiting, int(1000 * time.time()), times[0], times[-1], len(finished)
        )
        self.seen = Seen(waiting, pause_s)

    async def get(self, job_id: str) -> Job:
        """The job as it is now; JobNotFound if there is none or it was forgotten."""
        with outages_named():
            fields: Any = await self.redis.hgetall(self.key("job", job_id))
        job = from_fields(fields)
        if job is None:
            raise JobNotFound(f"there is no job {job_id!r}; jobs are forgotten after a while")
        # A job that nobody claims expires all the same: whoever looks at it writes it down.
        return await self._close_with(job, late_error(job)) if is_late(job) else job

    async def placed(self, job: Job) -> Job:
        """The job with its place among those that wait, if it waits."""
        if job.status is not JobStatus.QUEUED:
            return job
        stage = Stage.PLAN if job.plan is None else Stage.RUN
        with outages_named():
            position = await self._streams[stage].position(job.id)
        return changed(job, queue_position=position)

    async def cancel(self, job_id: str) -> Job:
        """End a job unless it has ended; a worker that runs it notices at its next step."""
        job = await self.get(job_id)
        if job.status.is_final:
            return job
        error = JobError(code=JobCanceled.code, detail="the job was canceled on request")
        return await self._close_with(job, error)

    async def canceled(self, job_ids: Iterable[str]) -> set[str]:
        """Those of the jobs that were canceled."""
        ids = list(job_ids)
        async with self.redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hget(self.key("job", job_id), "status")
            with outages_named():
                states = await pipe.execute()
        canceled = pydantic_core.to_json(JobStatus.CANCELED)
        return {job_id for job_id, state in zip(ids, states, strict=True) if state == canceled}

    async def input_of(self, job_id: str) -> bytes:
        """The image that was sent; JobNotFound once the job has ended."""
        with outages_named():
            kept: Any = await self.redis.get(self.key("input", job_id))
        image = None if kept is None else await self.pictures.read(kept)
        if image is None:
            raise JobNotFound(f"the input of job {job_id!r} is gone: it is kept until the job ends")
        return image

    async def result_of(self, job_id: str) -> bytes:
        """The result; JobNotFinished, or the error that the job ended with."""
        job = await self.get(job_id)
        if not job.status.is_final:
            raise JobNotFinished(f"job {job_id!r} is {job.status}; it has no result yet")
        if job.error is not None:
            raise error_of(job.error)
        return await self.result_file(job_id)

    async def result_file(self, job_id: str) -> bytes:
        """The result of a job that is known to have succeeded; JobNotFound if it was forgotten."""
        with outages_named():
            kept: Any = await self.redis.get(self.key("result", job_id))
        result = None if kept is None else await self.pictures.read(kept)
        if result is None:
            raise JobNotFound(f"the result of job {job_id!r} was forgotten")
        return result

    async def watch(
        self, job_id: str, after: str = "0", stop: asyncio.Event | None = None
    ) -> AsyncIterator[tuple[str, Event]]:
        """Events later than the id `after`, as they come; ends with the final state, or `stop`."""
        while stop is None or not stop.is_set():
            job = await self.get(job_id)
            for event_id, event in await self._read_events(job, after):
                yield event_id, event
                if event.status.is_final:
                    return
                after = event_id
            if job.status.is_final:
                return

    async def wait(self, job_id: str, timeout_s: float) -> Job:
        """The job once it is final; DeadlineExceeded after `timeout_s`, the job itself goes on."""
        return await self.end_of(await self.get(job_id), timeout_s)

    async def end_of(self, job: Job, timeout_s: float) -> Job:
        """The same for a job as it was a moment ago."""
        give_up_at = time.monotonic() + timeout_s
        with self._endings.of(job.id) as end:
            await self._endings.listening(min(timeout_s, WATCH_BLOCK_S))
            if not self._endings.has_heard_since(job.created_at):
                job = await self.get(job.id)
            pause_s = 0.0
            while not job.status.is_final:
                left_s = give_up_at - time.monotonic()
                if left_s <= 0:
                    raise DeadlineExceeded(f"job {job.id!r} took longer than {timeout_s:g} s")
                await asyncio.sleep(min(left_s, pause_s))
                await asyncio.wait({end}, timeout=self._look_again_s(job, left_s))
                job = _told(end, job) or await self.get(job.id)
                pause_s = WATCH_BLOCK_S if end.done() else 0.0  # it ended, but was started again
        return job

    def _look_again_s(self, job: Job, left_s: float) -> float:
        """When to look whether the job has ended unheard, or is late."""
        late_s = math.inf if job.deadline_at is None else job.deadline_at - time.time()
        return min(left_s, WATCH_BLOCK_S, max(0.01, late_s))

    async def close(self) -> None:
        await self._endings.close()
        await super().close()

    async def depth(self) -> dict[Stage, StageDepth]:
        """How many jobs wait and how many are claimed, by stage."""
        with outages_named():
            return {stage: await stream.depth() for stage, stream in self._streams.items()}

    async def _earlier(self, job_id: str) -> Job:
        if not job_id:
            raise InvalidRequest(
                "this Idempotency-Key or id was sent before with another request; "
                "send a new one, or the same image and fields"
            )
        return await self.get(job_id)

    async def _close_with(self, job: Job, error: JobError) -> Job:
        """End a job that somebody else may have claimed; the job as it is then."""
        closed = ended(job, status=STATUS_OF_ERROR[error.code], error=error)
        keys = self._keys_of_job(job.id)
        args = [*self._head(closed, "status"), *changed_fields(job, closed)]
        with outages_named():
            await self._close([*keys, self.key("checkpoint", job.id), self.key("load")], args)
        return await self.get(job.id)

    async def _read_events(
        self, job: Job, after: str, block_s: float = WATCH_BLOCK_S
    ) -> list[tuple[str, Event]]:
        """Events later than `after`; waits for one if the job is open, at most to its deadline."""
        left_s = WATCH_BLOCK_S if job.deadline_at is None else job.deadline_at - time.time()
        block_s = min(block_s, WATCH_BLOCK_S, max(0.01, left_s))
        if job.status.is_final:
            block_s = 0.0
        streams: dict[Any, Any] = {self.key("events", job.id): after}
        with outages_named():
            reply: Any = await self.redis.xread(streams, count=MAX_EVENTS, block=as_block(block_s))
        entries = reply[0][1] if reply else []
        return [(id.decode(), Event.model_validate_json(e[b"event"])) for id, e in entries]


def _told(end: "asyncio.Future[bytes]", job: Job) -> Job | None:
    """The job as its end was told; None if it was not, or was that of another life of the job."""
    if not end.done():
        return None
    told = Job.model_validate_json(end.result())
    return told if told.created_at == job.created_at else None
