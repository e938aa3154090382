"""The consumers' side of the job queue: claim, renew, report, and the one end of each job."""

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from redis.asyncio import Redis

from service import queue_scripts as scripts
from service.errors import EditFailed
from service.jobs import Job, JobError, JobStatus, Plan, Preview, Progress, Timings
from service.queue_connection import MAX_EVENTS, QueueConnection
from service.queue_records import (
    STATUS_OF_ERROR,
    Checkpoint,
    Claim,
    DeadLetter,
    EventKind,
    QueueSettings,
    Stage,
    changed,
    changed_fields,
    claimed,
    ended,
    event_of,
    from_fields,
    is_late,
    late_error,
    may_retry,
    retry_pause_s,
)
from service.queue_streams import GROUP, Delivery, outages_named

DEAD_LETTER_TTL_S = 7 * 24 * 3600


class ConsumerSide(QueueConnection):
    """What selectors and workers do: they hold claims, and act only while a claim holds."""

    def __init__(self, redis: Redis, settings: QueueSettings) -> None:
        super().__init__(redis, settings)
        self._update = redis.register_script(scripts.UPDATE)
        self._renew = redis.register_script(scripts.RENEW)
        self._release = redis.register_script(scripts.RELEASE)
        self._finish = redis.register_script(scripts.FINISH)
        self._report = redis.register_script(scripts.REPORT)
        self._save = redis.register_script(scripts.SAVE)
        self._read_job = redis.register_script(scripts.OPEN)

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
        return (await self.report_all([(claim, progress)]))[0]

    async def report_all(self, reports: Sequence[tuple[Claim, Progress]]) -> list[bool]:
        """report() of many claims of one consumer, in one call: an engine step has many."""
        if not reports:
            return []
        keys: list[str] = []
        args: list[Any] = [MAX_EVENTS, GROUP, reports[0][0].consumer]
        for claim, progress in reports:
            job_key, events_key, _, stream = self._keys(claim)
            keys += (job_key, events_key, stream)
            event = event_of(changed(claim.job, progress=progress), "progress")
            args += (claim.entry, claim.delivery, progress.model_dump_json(), event)
        with outages_named():
            return [bool(holds) for holds in await self._report(keys, args)]

    async def show(self, claim: Claim, progress: Progress, preview: Preview) -> bool:
        """Publish a preview; False if the claim is lost or the job has ended."""
        job = changed(claim.job, progress=progress)
        return await self._write(claim, job, "preview", preview=preview)

    async def save(self, claim: Claim, checkpoint: Checkpoint) -> bool:
        """Keep what is finished of a job for its next attempt; False if the claim is lost."""
        keys = [*self._keys(claim), self.key("checkpoint", claim.job.id)]
        args = [*self._args(claim, claim.job), checkpoint.num_tasks, checkpoint.picture]
        args.append(json.dumps(dict(checkpoint.versions)))
        with outages_named():
            return bool(await self._save(keys, args))

    async def complete(
        self,
        claim: Claim,
        result: bytes,
        media_type: str,
        timings: Timings,
        no_op: bool = False,
        plan: Plan | None = None,
        versions: Mapping[str, str] | None = None,
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
            versions=dict(versions or {}),
        )
        return await self._end(claim, job, result)

    async def fail(self, claim: Claim, error: JobError, timings: Timings | None = None) -> bool:
        """End a job with an error (expired or canceled if its code says so); else as complete()."""
        status = STATUS_OF_ERROR.get(error.code, JobStatus.FAILED)
        timings = timings or claim.job.timings
        return await self._end(claim, ended(claim.job, status=status, error=error, timings=timings))

    async def retry(self, claim: Claim, error: JobError, timings: Timings | None = None) -> bool:
        """After a fault of ours: queue the job for another attempt, later; bury it if that was the
        last. False, and nothing changes, if the claim is lost.
        """
        if not may_retry(claim, self.settings):
            return await self._bury(claim, DeadLetter.of_fault(claim, error), timings)
        job = changed(claim.job, status=JobStatus.QUEUED, worker=None, progress=None)
        # A claim that is idle for a lease is anybody's: the pause is what is left of one.
        left_ms = int(1000 * (self.settings.lease_s - retry_pause_s(claim.delivery, self.settings)))
        return await self._give_back(claim, job, left_ms, claim.delivery)

    async def release(self, claim: Claim) -> bool:
        """Hand a claim back, at shutdown; the next claim of its stage takes it."""
        job = changed(claim.job, status=JobStatus.QUEUED, worker=None)
        # Idle for a day: the next claim, with any lease, takes it. This delivery does not count.
        return await self._give_back(claim, job, 24 * 3600 * 1000, claim.delivery - 1)

    async def _give_back(self, claim: Claim, job: Job, idle_ms: int, deliveries: int) -> bool:
        args = [*self._args(claim, job, "status"), idle_ms, deliveries]
        args += changed_fields(claim.job, job)
        with outages_named():
            return bool(await self._release(self._keys(claim), args))

    async def _open(self, stage: Stage, consumer: str, delivery: Delivery) -> Claim | None:
        """The claim on a delivery, its job marked as claimed; None if there is nothing to do."""
        keys = [self.key(kind, delivery.job_id) for kind in ("job", "input", "checkpoint")]
        reply: Any = await self._read_job(keys)
        fields, kept, (num_tasks, picture, versions) = reply
        job = from_fields(dict(zip(fields[::2], fields[1::2], strict=True)))
        if job is None or job.status.is_final:
            await self._streams[stage].drop(delivery)
            return None
        checkpoint = None
        if num_tasks:
            checkpoint = Checkpoint(int(num_tasks), picture, json.loads(versions))
        image = None if kept is None else await self.pictures.read(kept)
        claim = Claim(
            entry=delivery.entry,
            stage=stage,
            consumer=consumer,
            delivery=delivery.number,
            job=job,
            input=image or b"",
            checkpoint=checkpoint,
            kept=kept or b"",
        )
        if is_late(job):
            await self.fail(claim, late_error(job))
            return None
        if delivery.number > self.settings.max_deliveries or image is None:
            await self._bury(claim, DeadLetter.of(claim))
            return None
        job = claimed(job, stage, consumer, delivery.number)
        is_ours = await self._write(claim, job, "status")
        return replace(claim, job=job) if is_ours else None

    async def _bury(self, claim: Claim, letter: DeadLetter, timings: Timings | None = None) -> bool:
        """Fail a job that was given up; a letter and its input stay for inspection."""
        error = JobError(code=EditFailed.code, detail=letter.reason)
        timings = timings or claim.job.timings
        job = ended(claim.job, status=JobStatus.FAILED, error=error, timings=timings)
        return await self._end(claim, job, letter=letter.model_dump_json())

    async def _write(
        self,
        claim: Claim,
        job: Job,
        kind: EventKind,
        moves_to: Stage | None = None,
        preview: Preview | None = None,
    ) -> bool:
        """Write what differs between claim.job and `job`, if the claim still holds."""
        moves = [self._stream(moves_to, job), self.key("load")] if moves_to else []
        num_tasks = len(job.plan.runnable) if job.plan else 0
        args = [*self._args(claim, job, kind), job.id, num_tasks]
        args += changed_fields(claim.job, job)
        if preview is not None:
            args[2] = event_of(job, kind, preview)
        with outages_named():
            return bool(await self._update(self._keys(claim) + moves, args))

    async def _end(self, claim: Claim, job: Job, result: bytes = b"", letter: str = "") -> bool:
        extra = [self.key("result", job.id), self.key("finished"), self.key("dead")]
        extra += [self.key("checkpoint", job.id), self.key("load")]
        kept = await self.pictures.keep("result", job.id, result)
        args = [*self._args(claim, job, "status"), kept, letter, DEAD_LETTER_TTL_S]
        args += changed_fields(claim.job, job)
        with outages_named():
            is_ours = bool(await self._finish(self._keys(claim) + extra, args))
        if is_ours and not letter:
            self.pictures.drop(claim.kept)
        return is_ours

    def _keys(self, claim: Claim) -> list[str]:
        return [*self._keys_of_job(claim.job.id), self._stream(claim.stage, claim.job)]

    def _args(self, claim: Claim, job: Job, kind: EventKind | None = None) -> list[Any]:
        return [*self._head(job, kind), GROUP, claim.consumer, claim.entry, claim.delivery]
