"""What the job queue hands out, and how a job is written in Redis. Pure values; no connection.

A job is a hash with one JSON text per field of Job, so that a script can change some fields
without parsing the others.
"""

import math
import random
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

import pydantic_core

from service.errors import DeadlineExceeded, DiffPluginError, JobCanceled, by_code
from service.jobs import Job, JobError, JobStatus, Plan, Preview, Priority, Progress, Record
from service.settings import Settings

STATUS_OF_ERROR = {
    DeadlineExceeded.code: JobStatus.EXPIRED,
    JobCanceled.code: JobStatus.CANCELED,
}

MASK_MARK = b"mask+image\0"

EventKind = Literal["status", "progress", "preview"]


class Stage(StrEnum):
    PLAN = "plan"
    RUN = "run"


@dataclass(frozen=True)
class QueueSettings:
    """Meaning and defaults of each: service.settings."""

    prefix: str = "diffplugin"
    lease_s: float = 20.0
    max_deliveries: int = 3
    max_depth: int = 256
    max_bytes: int = 2**30
    max_wait_s: float = 600.0
    result_ttl_s: int = 3600
    heartbeat_s: float = 2.0
    ageing_s: float = 30.0
    retry_backoff_s: float = 1.0
    pictures_folder: Path | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(
            prefix=settings.key_prefix,
            lease_s=settings.lease_s,
            max_deliveries=settings.max_deliveries,
            max_depth=settings.max_queue_depth,
            max_bytes=settings.max_queue_bytes,
            max_wait_s=settings.max_queue_s,
            result_ttl_s=settings.result_ttl_s,
            heartbeat_s=settings.heartbeat_s,
            ageing_s=settings.priority_ageing_s,
            retry_backoff_s=settings.retry_backoff_s,
            pictures_folder=settings.pictures_folder,
        )


@dataclass(frozen=True)
class Checkpoint:
    """What a former attempt finished: `num_tasks` of the plan, and the picture after them."""

    num_tasks: int
    picture: bytes
    versions: Mapping[str, str] = field(default_factory=dict)  # of the plugins it started with


# Compared by identity: a job holds a dict and cannot be hashed.
@dataclass(frozen=True, eq=False)
class Claim:
    """The right to work on a job, for as long as it is renewed. `delivery` counts from 1."""

    entry: str
    stage: Stage
    consumer: str
    delivery: int
    job: Job
    input: bytes  # as pack_input made it
    checkpoint: Checkpoint | None = None
    kept: bytes = b""  # what Redis has of the input: service.queue_pictures

    @property
    def image(self) -> bytes:
        return unpack_input(self.input)[0]

    @property
    def mask(self) -> bytes:
        """Empty: the whole image is edited."""
        return unpack_input(self.input)[1]


@dataclass(frozen=True)
class OnceKey:
    """An idempotency key, and the digest of the whole request that it came with."""

    name: str
    digest: str


@dataclass(frozen=True)
class StageDepth:
    """Jobs of one stage; those that wait also by priority."""

    waiting: int
    running: int
    waiting_by_priority: Mapping[Priority, int]
    lag_s_by_priority: Mapping[Priority, float]  # how long the next one has waited


class Event(Record):
    """A change of a job: its status, its progress, or a preview of its result."""

    kind: EventKind
    status: JobStatus
    plan: Plan | None = None
    progress: Progress | None = None
    preview: Preview | None = None
    error: JobError | None = None
    no_op: bool = False
    attempt: int = 0
    at: float


class DeadLetter(Record):
    """What is kept of a job that was delivered too often without an end."""

    job: str
    stage: Stage
    reason: str
    last_error: str
    worker: str | None  # the last one
    attempts: int
    at: float

    @classmethod
    def of_fault(cls, claim: Claim, error: JobError) -> Self:
        """Of a job on whose last delivery `error` happened, as on those before."""
        return cls(
            job=claim.job.id,
            stage=claim.stage,
            reason=f"given up after {claim.delivery} attempts: {error.detail}",
            last_error=error.detail,
            worker=claim.consumer,
            attempts=claim.delivery,
            at=time.time(),
        )

    @classmethod
    def of(cls, claim: Claim) -> Self:
        attempts, done = claim.delivery - 1, claim.job.progress
        where = (
            f"task {done.task} of {done.num_tasks} ({done.plugin}), after step {done.step}"
            f" of {done.num_steps}"
            if done
            else "before its first step"
        )
        return cls(
            job=claim.job.id,
            stage=claim.stage,
            reason=f"given up after {attempts} attempts: each worker that took it was lost",
            last_error=f"the worker was lost in {where}" if done else f"lost {where}",
            worker=claim.job.worker,
            attempts=attempts,
            at=time.time(),
        )


def pack_input(image: bytes, mask: bytes) -> bytes:
    """What is kept of a job's input: the image file alone, or a mask and the image."""
    return b"".join((MASK_MARK, struct.pack(">Q", len(mask)), mask, image)) if mask else image


def unpack_input(kept: bytes) -> tuple[bytes, bytes]:
    """Image and mask. No image file starts with the mark."""
    if not kept.startswith(MASK_MARK):
        return kept, b""
    start = len(MASK_MARK) + 8
    (num_bytes,) = struct.unpack(">Q", kept[len(MASK_MARK) : start])
    return kept[start + num_bytes :], kept[start : start + num_bytes]


def error_of(error: JobError) -> DiffPluginError:
    """The exception of a job's error."""
    return by_code(error.code)(error.detail)


def to_fields(job: Job) -> list[str | bytes]:
    """Name, JSON text, name, JSON text, ... as HSET takes them."""
    return _flat(_texts(job))


def changed_fields(before: Job, after: Job) -> list[str | bytes]:
    """The fields that differ, as to_fields. The status always: HSET takes no empty list."""
    fields = {"status": pydantic_core.to_json(after.status)}
    for name in Job.model_fields:
        value = getattr(after, name)
        if value is not getattr(before, name) and value != getattr(before, name):
            fields[name] = pydantic_core.to_json(value)
    return _flat(fields)


def from_fields(fields: dict[bytes, bytes]) -> Job | None:
    """The job of a hash; None for the empty hash of a key that does not exist."""
    if not fields:
        return None
    text = b",".join(b'"%s":%s' % pair for pair in fields.items())
    return Job.model_validate_json(b"{%s}" % text)


def event_of(job: Job, kind: EventKind, preview: Preview | None = None) -> str:
    """JSON of the event that `job` has come to its present state, or shows a preview."""
    event = Event(
        kind=kind,
        status=job.status,
        plan=job.plan if kind == "status" else None,
        progress=job.progress,
        preview=preview,
        error=job.error,
        no_op=job.no_op,
        attempt=job.attempt,
        at=time.time(),
    )
    return event.model_dump_json()


def changed(job: Job, **changes: Any) -> Job:
    return job.model_copy(update=changes)


def claimed(job: Job, stage: Stage, consumer: str, delivery: int) -> Job:
    """The job as its new consumer has it."""
    queue_s = max(0.0, time.time() - job.created_at - job.timings.plan_s)
    return changed(
        job,
        status=JobStatus.PLANNING if stage is Stage.PLAN else JobStatus.RUNNING,
        worker=consumer,
        attempt=delivery,
        progress=None,
        timings=job.timings.model_copy(update={"queue_s": queue_s}),
    )


def ended(job: Job, **changes: Any) -> Job:
    """The job in its final state, its total time measured."""
    now = time.time()
    final = changed(job, finished_at=now, **changes)
    timings = final.timings.model_copy(update={"total_s": max(0.0, now - job.created_at)})
    return changed(final, timings=timings)


def is_late(job: Job) -> bool:
    return not job.status.is_final and job.deadline_at is not None and time.time() > job.deadline_at


def late_error(job: Job) -> JobError:
    allowed_s = (job.deadline_at or 0.0) - job.created_at
    detail = f"the job did not finish within its {allowed_s:.1f} s"
    return JobError(code=DeadlineExceeded.code, detail=detail)


def may_retry(claim: Claim, settings: QueueSettings) -> bool:
    """Whether a fault on this delivery leaves another."""
    return claim.delivery < settings.max_deliveries


def retry_pause_s(delivery: int, settings: QueueSettings) -> float:
    """Doubles with each delivery, at most a lease; with jitter, so that no herd comes back."""
    pause_s = math.ldexp(settings.retry_backoff_s, delivery - 1) * random.uniform(0.5, 1.5)
    return min(settings.lease_s, pause_s)


def _texts(job: Job) -> dict[str, bytes]:
    return {name: pydantic_core.to_json(getattr(job, name)) for name in Job.model_fields}


def _flat(fields: dict[str, bytes]) -> list[str | bytes]:
    return [part for pair in fields.items() for part in pair]
