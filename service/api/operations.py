"""Routes for those who run the service: liveness, readiness, metrics."""

import logging

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service import __version__
from service.api.intake import Intake
from service.api.schemas import Readiness, ServerMetadata, V2Readiness
from service.errors import QueueUnavailable
from service.job_queue import JobQueue
from service.metrics import ApiMetrics
from service.metrics_published import read_published
from service.queue_letters import DeadLetters

log = logging.getLogger(__name__)

router = APIRouter()


@router.get("/livez")
async def livez() -> dict[str, str]:
    """This process answers."""
    return {"status": "live"}


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
async def readyz(request: Request) -> Response:
    """200 if Redis answers and worker and selector are alive; else 503 says what is missing."""
    readiness = await readiness_of(request.app.state.intake)
    status = 200 if readiness.status == "ready" else 503
    return Response(readiness.model_dump_json(), status, media_type="application/json")


@router.get("/v2/health/live")
async def v2_live() -> dict[str, bool]:
    """/livez as the Open Inference Protocol has it."""
    return {"live": True}


@router.get("/v2/health/ready", response_model=V2Readiness, responses={503: {"model": V2Readiness}})
async def v2_ready(request: Request) -> Response:
    """/readyz as the Open Inference Protocol has it."""
    is_ready = (await readiness_of(request.app.state.intake)).status == "ready"
    answer = V2Readiness(ready=is_ready).model_dump_json()
    return Response(answer, 200 if is_ready else 503, media_type="application/json")


@router.get("/v2")
async def v2_server() -> ServerMetadata:
    """Name and version of the server, as the Open Inference Protocol has it."""
    return ServerMetadata(version=__version__)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Prometheus text: of this process, of the queue, and of every live worker."""
    state = request.app.state
    measured: ApiMetrics = state.metrics
    try:
        queue: JobQueue = state.intake.queue
        depth, workers = await queue.depth(), await queue.workers()
        published = await read_published(queue, [info.name for info in workers])
        measured.see_queue(depth, await DeadLetters(queue).count(), workers, published)
    except QueueUnavailable as error:
        log.warning("metrics without the queue: %s", error)
        measured.lose_queue()
    return Response(measured.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def readiness_of(intake: Intake) -> Readiness:
    """Whether edits can be served, and what is missing."""
    try:
        workers, selectors = await intake.live()
    except QueueUnavailable as error:
        return Readiness(status="not_ready", missing=(f"redis: {error}",))
    missing = []
    if not workers:
        missing.append("worker: none is alive; start one: diffplugin worker")
    if not selectors:
        missing.append("selector: none is alive; start one: diffplugin selector")
    return Readiness(
        status="not_ready" if missing else "ready",
        missing=tuple(missing),
        workers=len(workers),
        selectors=len(selectors),
    )
