"""The job queue: every job's life in Redis, from submit to result. Nothing else talks to Redis.

Two stages, each a stream with one consumer group: PLAN (claimed by selectors) and RUN (by workers).
Entries hold the job id alone; the job's state and images lie beside them, every key with a TTL.
A claim is a lease: unless it is renewed, another consumer takes over. Delivery is at least once;
of several ends of one job the first that is written is the only one.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any, Self

import pydantic_core
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from service import queue_scripts as scripts
from service.errors import (
    DeadlineExceeded,
    EditFailed,
    JobCanceled,
    JobNotFinished,
    JobNotFound,
    Overloaded,
)
from service.jobs import Job, JobError, JobStatus, Plan, Progress, Timings, WorkerInfo
from service.queue_records import (
    STATUS_OF_ERROR,
    Claim,
    Event,
    EventKind,
    QueueSettings,
    Stage,
    StageDepth,
    changed,
    changed_fields,
    claimed,
    dead_letter,
    ended,
    error_of,
    event_of,
    from_fields,
    is_late,
    late_error,
    retry_after_s,
    to_fields,
)
from service.queue_streams import (
    GROUP,
    SOCKET_TIMEOUT_S,
    Delivery,
    StageStream,
    as_block,
    outages_named,
)

__all__ = ["Claim", "Event", "JobQueue", "QueueSettings", "Stage", "StageDepth", "error_of"]

MAX_EVENTS = 256  # per job; older ones are trimmed
DEAD_LETTER_TTL_S = 7 * 24 * 3600
WATCH_BLOCK_S = 1.0


class JobQueue:
    """Every method raises QueueUnavailable if Redis does not answer."""

    def __init__(self, redis: Redis, settings: QueueSettings) -> None:
        self.redis, self.settings = redis, settings
        self._streams = {
            stage: StageStream(redis, self._key("stream", stage), settings.lease_s)
            for stage in Stage
        }
        self._submit = redis.register_script(scripts.SUBMIT)
        self._update = redis.register_script(scripts.UPDATE)
        self._renew = redis.register_script(scripts.RENEW)
        self._release = redis.register_script(scripts.RELEASE)
        self._finish = redis.register_script(scripts.FINISH)
        self._close = redis.register_script(scripts.CLOSE)
        self._forget_consumer = redis.register_script(scripts.FORGET_CONSUMER)

    @classmethod
    def connect(cls, url: str, settings: QueueSettings) -> Self:
        """A queue on the Redis at `url`. It connects at first use; close() it."""
        redis = Redis.from_url(
            url,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=2.0,
            retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 2),
            max_connections=10_000,  # every watch holds one
            protocol=2,
        )
        return cls(redis, settings)

    async def close(self) -> None:
        await self.redis.aclose()

    async def ping(self) -> None:
        with outages_named():
            await self.redis.ping()

    # -- for callers ---------------------------------------------------------------------------

    async def submit(self, job: Job, image: bytes) -> Job:
        """Queue a job, for RUN if it has a plan, else for PLAN; Overloaded if the queue is full."""
        first, other = (Stage.PLAN, Stage.RUN) if job.plan is None else (Stage.RUN, Stage.PLAN)
        keys = [*self._keys_of_job(job.id), self._streams[first].name, self._streams[other].name]
        args = [GROUP, job.id, image, self.settings.max_depth, *to_fields(job)]
        with outages_named():
            refusal: Any = await self._submit(
                [*keys, self._key("finished")], [*self._head(job, "status"), *args]
            )
        if refusal:
            raise Overloaded(
                f"{refusal[0]} jobs are waiting and at most {self.settings.max_depth} may; "
                "try again later",
                retry_after_s=retry_after_s(*refusal),
            )
        return job

    async def get(self, job_id: str) -> Job:
        """The job as it is now; JobNotFound if there is none or it was forgotten."""
        with outages_named():
            fields: Any = await self.redis.hgetall(self._key("job", job_id))
        job = from_fields(fields)
        if job is None:
            raise JobNotFound(f"there is no job {job_id!r}; jobs are forgotten after a while")
        # A job that nobody claims expires all the same: whoever looks at it writes it down.
        return await self._close_with(job, late_error(job)) if is_late(job) else job

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
                pipe.hget(self._key("job", job_id), "status")
            with outages_named():
                states = await pipe.execute()
        canceled = pydantic_core.to_json(JobStatus.CANCELED)
        return {job_id for job_id, state in zip(ids, states, strict=True) if state == canceled}

    async def input_of(self, job_id: str) -> bytes:
        """The image that was sent; JobNotFound once the job has ended."""
        with outages_named():
            image: Any = await self.redis.get(self._key("input", job_id))
        if image is None:
            raise JobNotFound(f"the input of job {job_id!r} is gone: it is kept until the job ends")
        return bytes(image)

    async def result_of(self, job_id: str) -> bytes:
        """The result; JobNotFinished, or the error that the job ended with."""
        job = await self.get(job_id)
        if not job.status.is_final:
            raise JobNotFinished(f"job {job_id!r} is {job.status}; it has no result yet")
        if job.error is not None:
            raise error_of(job.error)
        with outages_named():
            result: Any = await self.redis.get(self._key("result", job_id))
        if result is None:
            raise JobNotFound(f"the result of job {job_id!r} was forgotten")
        return bytes(result)

    async def watch(self, job_id: str, after: str = "0") -> AsyncIterator[tuple[str, Event]]:
        """Events later than the id `after`, as they come; ends with the final state."""
        while True:
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
        give_up_at, after = time.monotonic() + timeout_s, "0"
        while not (job := await self.get(job_id)).status.is_final:
            left_s = give_up_at - time.monotonic()
            if left_s <= 0:
                raise DeadlineExceeded(f"job {job_id!r} took longer than {timeout_s:g} s")
            events = await self._read_events(job, after, left_s)
            after = events[-1][0] if events else after
        return job

    async def depth(self) -> dict[Stage, StageDepth]:
        """How many jobs wait and how many are claimed, by stage."""
        with outages_named():
            return {stage: await stream.depth() for stage, stream in self._streams.items()}

    # -- for selectors and workers ---------------------------------------------------------------

    async def claim(
        self, stage: Stage, consumer: str, count: int = 1, block_s: float = 0.0
    ) -> list[Claim]:
        """Up to `count` jobs to work on, marked as planning or running.

        First come those whose lease ran out. Waits up to `block_s` for a new one. Jobs that ended
        meanwhile, are late or were delivered too often are settled here.
        """
        with outages_named():
            deliveries = await self._streams[stage].deliver(consumer, count, block_s)
            claims = await asyncio.gather(*(self._open(stage, consumer, d) for d in deliveries))
        return [claim for claim in claims if claim is not None]

    async def renew(self, claims: Iterable[Claim]) -> set[Claim]:
        """Extend the leases; returns those that are lost: taken over, canceled or expired."""
        claims = list(claims)
        with outages_named():
            kept = await asyncio.gather(
                *(self._renew(self._keys(c), self._args(c, c.job)) for c in claims)
            )
        return {claim for claim, is_kept in zip(claims, kept, strict=True) if not is_kept}

    async def planned(self, claim: Claim, plan: Plan, plan_s: float) -> bool:
        """Hand a job with its plan on to the workers; False if the claim is lost."""
        timings = claim.job.timings.model_copy(update={"plan_s": plan_s})
        job = changed(claim.job, status=JobStatus.QUEUED, plan=plan, timings=timings, worker=None)
        return await self._write(claim, job, "status", moves_to=Stage.RUN)

    async def report(self, claim: Claim, progress: Progress) -> bool:
        """Publish progress; False if the claim is lost or the job has ended: stop working on it."""
        return await self._write(claim, changed(claim.job, progress=progress), "progress")

    async def complete(
        self,
        claim: Claim,
        result: bytes,
        media_type: str,
        timings: Timings,
        no_op: bool = False,
        plan: Plan | None = None,
    ) -> bool:
        """End a job with its result; False, and nothing changes, if the claim is lost or it ended.

        A selector that finds nothing to do completes its claim itself, with `no_op` and `plan`.
        """
        job = ended(
            claim.job,
            status=JobStatus.SUCCEEDED,
            timings=timings,
            no_op=no_op,
            result_type=media_type,
            plan=plan or claim.job.plan,
        )
        return await self._end(claim, job, result)

    async def fail(self, claim: Claim, error: JobError, timings: Timings | None = None) -> bool:
        """End a job with an error (expired or canceled if its code says so); else as complete()."""
        status = STATUS_OF_ERROR.get(error.code, JobStatus.FAILED)
        timings = timings or claim.job.timings
        return await self._end(claim, ended(claim.job, status=status, error=error, timings=timings))

    async def release(self, claim: Claim) -> bool:
        """Hand a claim back, at shutdown; the next claim of its stage takes it."""
        job = changed(claim.job, status=JobStatus.QUEUED, worker=None)
        args = [*self._args(claim, job, "status"), *changed_fields(claim.job, job)]
        with outages_named():
            return bool(await self._release(self._keys(claim), args))

    # -- who is alive ----------------------------------------------------------------------------

    async def heartbeat(self, info: WorkerInfo) -> None:
        """Say that a worker or selector lives; it is forgotten after three missed heartbeats."""
        life_ms = int(3000 * self.settings.heartbeat_s)
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.set(self._key("worker", info.name), info.model_dump_json(), px=life_ms)
            pipe.sadd(self._key("workers"), info.name)
            pipe.expire(self._key("workers"), 24 * 3600)
            with outages_named():
                await pipe.execute()

    async def workers(self) -> list[WorkerInfo]:
        """Workers and selectors that are alive, by name."""
        with outages_named():
            names = sorted(name.decode() for name in await self._members("workers"))
            if not names:
                return []
            states = await self.redis.mget([self._key("worker", name) for name in names])
            dead = [name for name, state in zip(names, states, strict=True) if state is None]
            if dead:
                await self.redis.srem(self._key("workers"), *dead)
        return [WorkerInfo.model_validate_json(state) for state in states if state is not None]

    async def goodbye(self, name: str) -> None:
        """Forget a worker or selector that has given up its claims."""
        streams = [stream.name for stream in self._streams.values()]
        with outages_named():
            await self.redis.delete(self._key("worker", name))
            await self.redis.srem(self._key("workers"), name)
            await self._forget_consumer(streams, [GROUP, name])

    # -- Redis -----------------------------------------------------------------------------------

    async def _open(self, stage: Stage, consumer: str, delivery: Delivery) -> Claim | None:
        """The claim on a delivery, its job marked as claimed; None if there is nothing to do."""
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(self._key("job", delivery.job_id))
            pipe.get(self._key("input", delivery.job_id))
            fields, image = await pipe.execute()
        job = from_fields(fields)
        if job is None or job.status.is_final:
            await self._streams[stage].drop(delivery.entry)
            return None
        claim = Claim(delivery.entry, stage, consumer, delivery.number, job, image or b"")
        if is_late(job):
            await self.fail(claim, late_error(job))
            return None
        if delivery.number > self.settings.max_deliveries or image is None:
            await self._bury(claim)
            return None
        job = claimed(job, stage, consumer, delivery.number)
        is_ours = await self._write(claim, job, "status")
        return Claim(claim.entry, stage, consumer, claim.delivery, job, image) if is_ours else None

    async def _bury(self, claim: Claim) -> None:
        """Fail a job that keeps ending its workers; a letter and its input stay for inspection."""
        reason = f"given up after {claim.delivery - 1} attempts: each worker that took it was lost"
        error = JobError(code=EditFailed.code, detail=reason)
        job = ended(claim.job, status=JobStatus.FAILED, error=error)
        await self._end(claim, job, letter=dead_letter(claim, reason))

    async def _write(
        self, claim: Claim, job: Job, kind: EventKind, moves_to: Stage | None = None
    ) -> bool:
        """Write what differs between claim.job and `job`, if the claim still holds."""
        keys = self._keys(claim) + ([self._streams[moves_to].name] if moves_to else [])
        args = [*self._args(claim, job, kind), job.id, *changed_fields(claim.job, job)]
        with outages_named():
            return bool(await self._update(keys, args))

    async def _end(self, claim: Claim, job: Job, result: bytes = b"", letter: str = "") -> bool:
        extra = [self._key("result", job.id), self._key("finished"), self._key("dead")]
        args = [*self._args(claim, job, "status"), result, letter, DEAD_LETTER_TTL_S]
        args += changed_fields(claim.job, job)
        with outages_named():
            return bool(await self._finish(self._keys(claim) + extra, args))

    async def _close_with(self, job: Job, error: JobError) -> Job:
        """End a job that somebody else may have claimed; the job as it is then."""
        closed = ended(job, status=STATUS_OF_ERROR[error.code], error=error)
        args = [*self._head(closed, "status"), *changed_fields(job, closed)]
        with outages_named():
            await self._close(self._keys_of_job(job.id), args)
        return await self.get(job.id)

    async def _read_events(
        self, job: Job, after: str, block_s: float = WATCH_BLOCK_S
    ) -> list[tuple[str, Event]]:
        """Events later than `after`; waits for one if the job is open, at most to its deadline."""
        left_s = WATCH_BLOCK_S if job.deadline_at is None else job.deadline_at - time.time()
        block_s = min(block_s, WATCH_BLOCK_S, max(0.01, left_s))
        if job.status.is_final:
            block_s = 0.0
        streams: dict[Any, Any] = {self._key("events", job.id): after}
        with outages_named():
            reply: Any = await self.redis.xread(streams, count=MAX_EVENTS, block=as_block(block_s))
        entries = reply[0][1] if reply else []
        return [(id.decode(), Event.model_validate_json(e[b"event"])) for id, e in entries]

    async def _members(self, name: str) -> set[bytes]:
        members: Any = await self.redis.smembers(self._key(name))
        return set(members)

    # -- keys and arguments of the scripts -------------------------------------------------------

    def _key(self, *parts: str) -> str:
        return ":".join((self.settings.prefix, *parts))

    def _keys_of_job(self, job_id: str) -> list[str]:
        return [self._key(kind, job_id) for kind in ("job", "events", "input")]

    def _keys(self, claim: Claim) -> list[str]:
        return [*self._keys_of_job(claim.job.id), self._streams[claim.stage].name]

    def _head(self, job: Job, kind: EventKind | None = None) -> list[Any]:
        """TTL, most events, event. An open job is kept past its deadline as long as a result."""
        open_s = 0.0 if job.status.is_final else (job.deadline_at or 0.0) - time.time()
        ttl_s = self.settings.result_ttl_s + math.ceil(max(0.0, open_s))
        return [ttl_s, MAX_EVENTS, event_of(job, kind) if kind else ""]

    def _args(self, claim: Claim, job: Job, kind: EventKind | None = None) -> list[Any]:
        return [*self._head(job, kind), GROUP, claim.consumer, claim.entry, claim.delivery]
