"""Messages of protos/diffplugin/v1/edit.proto <-> the service's own records."""

import base64
from collections.abc import Mapping
from typing import Any

from service.api.intake import invalid
from service.api.schemas import EditFields, PlanFields
from service.jobs import Job, JobError, JobStatus, Plan, Preview, Progress, Timings
from service.pb.diffplugin.v1 import edit_pb2 as pb
from service.plugin_manifest import PluginManifest
from service.queue_records import Event

FORMATS = {
    pb.OUTPUT_FORMAT_UNSPECIFIED: "png",
    pb.OUTPUT_FORMAT_PNG: "png",
    pb.OUTPUT_FORMAT_JPEG: "jpeg",
    pb.OUTPUT_FORMAT_WEBP: "webp",
    pb.OUTPUT_FORMAT_AVIF: "avif",
    pb.OUTPUT_FORMAT_TIFF: "tiff",
}
METADATA = {
    pb.METADATA_UNSPECIFIED: "keep",
    pb.METADATA_KEEP: "keep",
    pb.METADATA_STRIP: "strip",
}
PRIORITIES = {
    pb.PRIORITY_UNSPECIFIED: "normal",
    pb.PRIORITY_HIGH: "high",
    pb.PRIORITY_NORMAL: "normal",
    pb.PRIORITY_LOW: "low",
}
OPTIONAL = ("steps", "seed", "output_quality", "strength")
STATUSES: dict[JobStatus, pb.JobStatus] = {
    status: pb.JobStatus.Value(f"JOB_STATUS_{status.name}") for status in JobStatus
}


def edit_fields(request: pb.EditRequest, timeout_s: float | None) -> EditFields:
    """Checked fields of an edit; InvalidRequest names each that is wrong."""
    sent = {name: getattr(request, name) for name in OPTIONAL if request.HasField(name)}
    return EditFields.parse(
        {
            **sent,
            "instruction": request.instruction,
            "plugins": list(request.plugins),
            "plan": _plan_of(request.plan) if request.HasField("plan") else None,
            "output_format": _named("output_format", FORMATS, request.output_format),
            "metadata": _named("metadata", METADATA, request.metadata),
            "priority": _named("priority", PRIORITIES, request.priority),
            "previews": request.previews,
            **_webhook_of(request),
            "timeout": timeout_s,
        }
    )


def _webhook_of(request: pb.EditRequest) -> dict[str, Any]:
    events = list(request.webhook_events_filter)
    told = {"webhook_events_filter": events} if events else {}
    return {"webhook": request.webhook or None, **told}


def _named(field: str, names: Mapping[Any, str], number: int) -> str:
    if number not in names:
        raise invalid(field, f"there is no {field} {number}")
    return names[number]


def _plan_of(message: pb.TaskPlan) -> dict[str, Any]:
    """The plan as JSON has it; EditFields checks it."""
    tasks = [
        {
            "plugin": task.plugin,
            "score": task.score if task.HasField("score") else None,
            "installed": task.installed,
        }
        for task in message.tasks
    ]
    threshold = message.threshold if message.HasField("threshold") else None
    return {"tasks": tasks, "scores": dict(message.scores), "threshold": threshold}


def plan_fields(request: pb.PlanRequest, timeout_s: float | None) -> PlanFields:
    return PlanFields.parse({"instruction": request.instruction, "timeout": timeout_s})


def job_message(job: Job) -> pb.Job:
    return pb.Job(
        id=job.id,
        status=status_message(job.status),
        plan=plan_message(job.plan),
        progress=progress_message(job.progress),
        timings=timings_message(job.timings),
        error=_error_message(job.error),
        no_op=job.no_op,
        seed=job.request.seed,
        attempt=job.attempt,
        created_at=job.created_at,
        deadline_at=job.deadline_at,
        finished_at=job.finished_at,
        versions=job.versions,
    )


def edit_message(job: Job, image: bytes, media_type: str) -> pb.EditResponse:
    return pb.EditResponse(
        id=job.id,
        image=image,
        media_type=media_type,
        plan=plan_message(job.plan),
        no_op=job.no_op,
        seed=job.request.seed,
        timings=timings_message(job.timings),
        versions=job.versions,
    )


def event_message(event_id: str, event: Event) -> pb.WatchEditResponse:
    return pb.WatchEditResponse(
        event_id=event_id,
        status=status_message(event.status),
        plan=plan_message(event.plan),
        progress=progress_message(event.progress),
        error=_error_message(event.error),
        no_op=event.no_op,
        attempt=event.attempt,
        preview=preview_message(event.preview),
    )


def preview_message(preview: Preview | None) -> pb.Preview | None:
    if preview is None:
        return None
    image = base64.b64decode(preview.base64)
    return pb.Preview(number=preview.number, image=image, media_type=preview.media_type)


def plan_message(plan: Plan | None) -> pb.TaskPlan | None:
    if plan is None:
        return None
    tasks = [
        pb.PlannedTask(plugin=task.plugin, score=task.score, installed=task.installed)
        for task in plan.tasks
    ]
    return pb.TaskPlan(tasks=tasks, scores=plan.scores, threshold=plan.threshold)


def progress_message(progress: Progress | None) -> pb.Progress | None:
    return None if progress is None else pb.Progress(**progress.model_dump())


def timings_message(timings: Timings) -> pb.Timings:
    return pb.Timings(**timings.model_dump())


def status_message(status: JobStatus) -> pb.JobStatus:
    return STATUSES[status]


def plugin_message(manifest: PluginManifest) -> pb.Plugin:
    return pb.Plugin(
        name=manifest.name,
        title=manifest.title,
        version=manifest.version,
        base=manifest.base,
        example_instructions=manifest.example_instructions,
        default_steps=manifest.default_steps,
        licence=manifest.licence,
    )


def _error_message(error: JobError | None) -> pb.JobError | None:
    return None if error is None else pb.JobError(code=error.code, detail=error.detail)
