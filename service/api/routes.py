"""REST routes of edits, plans and plugins: a thin skin over Intake."""

import asyncio
import json
import re
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import Response
from pydantic import BaseModel

from service.api.bodies import read_body
from service.api.intake import JOB_ID, Intake, raise_for
from service.api.openapi import body_of, headers_of, image_or
from service.api.schemas import EditAnswer, EditFields, PlanAnswer, PlanFields, PluginList
from service.errors import InvalidRequest, JobCanceled
from service.jobs import Job, Plan, Timings

router = APIRouter()

# RFC 7240; with both, the seconds count.
PREFERENCE = re.compile(r"\bwait\s*=\s*\"?(?P<wait_s>\d{1,6})|\brespond-async\b(?!.*\bwait\s*=)")


async def _intake(request: Request) -> Intake:
    intake: Intake = request.app.state.intake
    return intake


Door = Annotated[Intake, Depends(_intake)]
JobId = Annotated[
    str, Path(pattern=f"^{JOB_ID.pattern}$", description="Letters, digits, _ and -; at most 64.")
]


EXAMPLE = {"instruction": "remove the rain", "seed": 7, "output_format": "webp"}


@router.post(
    "/v1/edit",
    response_class=Response,
    responses={**image_or(EditAnswer), 202: {"model": Job}},
    openapi_extra={**body_of(EditFields, example=EXAMPLE), **headers_of(may_repeat=True)},
)
async def edit(request: Request, intake: Door) -> Response:
    """Restore a photo as a sentence says. `Prefer: respond-async` answers at once with the job,
    `Prefer: wait=n` after n seconds if it has not ended by then.

    A request that is sent again with the same `Idempotency-Key` gets the same job.
    """
    files, fields = await read_body(request, EditFields)
    key = request.headers.get("idempotency-key")
    job = await intake.submit_edit(files.image, fields, files.mask, key)
    return await _answer_edit(request, intake, job, may_come_back=key is not None)


@router.put(
    "/v1/edits/{client_id}",
    response_class=Response,
    responses={**image_or(EditAnswer), 202: {"model": Job}},
    openapi_extra={**body_of(EditFields, example=EXAMPLE), **headers_of(may_repeat=False)},
)
async def put_edit(client_id: JobId, request: Request, intake: Door) -> Response:
    """The same under an id that the caller chose. Sent again, it is the same job; with another
    image or other fields it is refused.
    """
    if "idempotency-key" in request.headers:
        raise InvalidRequest("the id in the path is the key; leave Idempotency-Key out")
    files, fields = await read_body(request, EditFields)
    job = await intake.submit_edit(files.image, fields, files.mask, job_id=client_id)
    return await _answer_edit(request, intake, job, may_come_back=True)


async def _answer_edit(request: Request, intake: Intake, job: Job, may_come_back: bool) -> Response:
    """The result, or the job as it stands where `Prefer` asks for that."""
    preference = PREFERENCE.search(request.headers.get("prefer", "").lower())
    if preference:
        # `respond-async` alone has no seconds to wait.
        job = await finish_unless_gone(request, intake, job, float(preference["wait_s"] or 0))
    elif may_come_back:
        # Whoever has a key may come back with it, so the job goes on without them.
        job = await intake.finish(job)
    else:
        job = await finish_unless_gone(request, intake, job)
    if not job.status.is_final:
        return _accepted(job, applied=preference[0] if preference else "")
    return await _result(request, intake, job)


async def _result(request: Request, intake: Intake, job: Job) -> Response:
    """The image file, or JSON with it."""
    result, media_type = await intake.result_of(job)
    if "application/json" in request.headers.get("accept", ""):
        answer = await asyncio.to_thread(EditAnswer.of, job, result, media_type)
        return _json(answer, headers=_headers_of(job))
    return Response(result, media_type=media_type, headers=_headers_of(job))


@router.post(
    "/v1/plan",
    response_model=PlanAnswer,
    openapi_extra=body_of(PlanFields, False, {"instruction": "remove the rain, then brighten it"}),
)
async def plan(request: Request, intake: Door) -> Response:
    """The tasks that the same photo and sentence would run, with scores; nothing is restored."""
    files, fields = await read_body(request, PlanFields)
    if files.mask:
        raise InvalidRequest("a plan takes no mask; send it to /v1/edit")
    job = await finish_unless_gone(request, intake, await intake.submit_plan(files.image, fields))
    answer = PlanAnswer(
        id=job.id,
        plan=job.plan or Plan(),
        estimated_s=await intake.estimate_s(job, files.image),
        timings=job.timings,
    )
    return _json(answer, headers={"X-Job-Id": job.id})


@router.get("/v1/edits/{job_id}", response_model=Job)
async def get_edit(job_id: str, intake: Door) -> Response:
    """The job as it stands: status, plan, progress, timings, error."""
    return _json(await intake.queue.placed(await intake.queue.get(job_id)))


@router.get("/v1/edits/{job_id}/result", response_class=Response, responses=image_or(EditAnswer))
async def get_result(job_id: str, request: Request, intake: Door) -> Response:
    """The restored image of a finished job, or the error it ended with."""
    return await _result(request, intake, await intake.queue.get(job_id))


@router.post("/v1/edits/{job_id}/cancel", response_model=Job)
async def cancel_edit(job_id: str, intake: Door) -> Response:
    """Cancel a job; one that has ended stays as it is."""
    return _json(await intake.queue.cancel(job_id))


@router.get("/v1/plugins", response_model=PluginList)
async def list_plugins(request: Request, intake: Door) -> Response:
    """Installed plugins with what they do, their version and their licence."""
    plugins = await intake.plugins()
    return _json(PluginList(base=request.app.state.base, plugins=tuple(plugins.values())))


async def finish_unless_gone(
    request: Request, intake: Intake, job: Job, wait_s: float | None = None
) -> Job:
    """The finished job, or as it stands after `wait_s`; canceled if the client goes away first."""
    finish = asyncio.create_task(intake.finish(job))
    gone = asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait({finish, gone}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        if finish.done():
            return finish.result()
        if gone.done():
            await intake.queue.cancel(job.id)
            raise JobCanceled(f"the client went away; job {job.id} was canceled")
        return job if wait_s == 0 else await _standing(intake, job)
    finally:
        finish.cancel()
        gone.cancel()


async def _standing(intake: Intake, job: Job) -> Job:
    """The job as it is; raises what it ended with."""
    job = await intake.queue.get(job.id)
    if job.status.is_final:
        raise_for(job)
    return job


async def _wait_for_disconnect(request: Request) -> None:
    # The body has been read, so the only message left is the disconnect.
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _accepted(job: Job, applied: str) -> Response:
    headers = {
        "Location": f"/v1/edits/{job.id}",
        "Preference-Applied": applied,
        "X-Job-Id": job.id,
        "X-Seed": str(job.request.seed),
    }
    return _json(job, status=202, headers=headers)


def _headers_of(job: Job) -> dict[str, str]:
    plan = job.plan.runnable if job.plan else ()
    return {
        "X-Job-Id": job.id,
        "X-Seed": str(job.request.seed),
        "X-Plan": json.dumps(plan, separators=(",", ":")),
        "X-Versions": json.dumps(job.versions, separators=(",", ":")),
        "X-No-Op": str(job.no_op).lower(),
        "Server-Timing": _server_timing(job.timings),
    }


def _server_timing(timings: Timings) -> str:
    stages = timings.model_dump().items()
    return ", ".join(f"{name.removesuffix('_s')};dur={1000 * s:.1f}" for name, s in stages)


def _json(answer: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(answer.model_dump_json(), status, headers, media_type="application/json")
