"""What travels between the roles: a job, its plan, its progress and its result.

Plain frozen data, serialised as JSON. It knows nothing about Redis, HTTP or tensors.
"""

import time
import uuid
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

WebhookEvent = Literal["start", "progress", "completed"]


class Record(BaseModel):
    """Frozen, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class JobStatus(StrEnum):
    QUEUED = "queued"
    PLANNING = "planning"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"

    @property
    def is_final(self) -> bool:
        return self in _FINAL


_FINAL = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED, JobStatus.EXPIRED}


class Priority(StrEnum):
    """The class that a job waits in, best first; waiting raises a job, so none is starved."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class PlannedTask(Record):
    """One plugin to run. `score` is the selector's cosine, None if the request named the plugin."""

    plugin: str
    score: float | None = None
    # The selector knows tasks whose plugin is not installed; those are reported and not run.
    installed: bool = True


class Plan(Record):
    """The ordered task sequence for one request (paper section 3.4)."""

    tasks: tuple[PlannedTask, ...] = ()
    scores: dict[str, float] = Field(default_factory=dict)
    threshold: float | None = None
    source: Literal["instruction", "request"] = "instruction"

    @property
    def runnable(self) -> tuple[str, ...]:
        """Names of the installed plugins, in execution order."""
        return tuple(task.plugin for task in self.tasks if task.installed)


class EditRequest(Record):
    """What the caller asked for. `plugins`, if given, is the sequence and skips the selector."""

    instruction: str = ""
    plugins: tuple[str, ...] | None = None
    steps: int | None = None  # denoising steps per task; None: the plugin's default
    seed: int = 0
    output_format: Literal["png", "jpeg", "webp", "avif", "tiff"] = "png"
    output_quality: int | None = None  # of jpeg, webp and avif; None: the codec's default here
    metadata: Literal["keep", "strip"] = "keep"  # EXIF, XMP and IPTC; the profile always stays
    strength: float = 1.0  # how much of the models' change is kept, 0 to 1
    previews: int = 0  # pictures to show on the way, at most
    webhook: str | None = None  # URL that is told of the job
    webhook_events_filter: tuple[WebhookEvent, ...] = ()
    priority: Priority = Priority.NORMAL
    plan_only: bool = False  # the selector ends the job with its plan; there is no result


class Progress(Record):
    """Task `task` (1-based) of `num_tasks`, after `step` of `num_steps` denoising steps."""

    plugin: str
    task: int
    num_tasks: int
    step: int
    num_steps: int


class Preview(Record):
    """A small picture of what the result is going to be; `number` counts from 1."""

    number: int
    media_type: str
    base64: str


class Timings(Record):
    """Seconds by stage, each from the monotonic clock of the process that did it."""

    queue_s: float = 0.0  # waiting in the plan and run queues
    plan_s: float = 0.0  # selector
    decode_s: float = 0.0  # image bytes -> pixels
    prepare_s: float = 0.0  # codec encode, image encoder, TPB, SCB
    denoise_s: float = 0.0  # UNet and sampler
    finish_s: float = 0.0  # codec decode
    encode_s: float = 0.0  # pixels -> image bytes
    total_s: float = 0.0  # received -> finished, wall clock


class JobError(Record):
    """`code` as in service.errors."""

    code: str
    detail: str


class Job(Record):
    """The whole state of a job at one moment. Times are Unix seconds."""

    id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    request: EditRequest
    status: JobStatus = JobStatus.QUEUED
    plan: Plan | None = None
    progress: Progress | None = None
    timings: Timings = Timings()
    attempt: int = 0
    worker: str | None = None
    error: JobError | None = None
    no_op: bool = False  # nothing to do: the result is the input, byte for byte
    result_type: str | None = None  # media type of the result
    versions: dict[str, str] = Field(default_factory=dict)  # of the plugins it ran on
    created_at: float = Field(default_factory=time.time)
    deadline_at: float | None = None
    queue_position: int | None = None  # 1 is next; only told by GET /v1/edits/{id}, never kept
    traceparent: str = ""  # W3C context of the request that made it
    finished_at: float | None = None


class WorkerInfo(Record):
    """A heartbeat: who serves what. `role` is "worker" or "selector"."""

    name: str
    role: Literal["worker", "selector"]
    backbone: str = ""  # name of the loaded base, "nano" or "sd15"
    device: str = ""
    plugins: tuple[str, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)  # of those, as far as they are known
    faults: dict[str, str] = Field(default_factory=dict)  # published plugins it cannot serve: why
    free_slots: int = 0
    # Recent seconds of the engine per megapixel and denoising step; None before the first edit.
    step_s_per_mpx: float | None = None
    # Pixels times denoising steps that the engine does in a second; None before the first step.
    pixel_steps_per_s: float | None = None
    seen_at: float = Field(default_factory=time.time)
