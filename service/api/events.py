"""Server-sent events of jobs: what happens to one, resumable, with comments that keep it open."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, TypeVar

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response, StreamingResponse

from service.api.intake import Intake, check_event_id
from service.queue_records import Event

T = TypeVar("T")

MEDIA_TYPE = "text/event-stream"
# Proxies between hold nothing back, and no cache repeats it.
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
KEEP_ALIVE = ": keep-alive\n\n"
KEEP_ALIVE_S = 10.0  # many proxies close what is silent for 30 or 60

router = APIRouter()


@router.get(
    "/v1/edits/{job_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {MEDIA_TYPE: {}}}, 204: {"description": "Nothing is left."}},
)
async def get_events(
    job_id: str, request: Request, last_event_id: Annotated[str, Header()] = ""
) -> Response:
    """What happens to a job, to its end: events `status`, `progress` and at last `done`."""
    intake: Intake = request.app.state.intake
    after = check_event_id("Last-Event-ID", last_event_id)
    job = await intake.queue.get(job_id)
    events = intake.queue.watch(job_id, after)
    first = await anext(events, None) if job.status.is_final else None
    if first is None and job.status.is_final:
        return Response(status_code=204)  # tells an EventSource not to come back
    texts = _texts(events, first)
    return StreamingResponse(keep_alive(texts), media_type=MEDIA_TYPE, headers=HEADERS)


async def keep_alive(
    texts: AsyncIterator[str], interval_s: float = KEEP_ALIVE_S
) -> AsyncIterator[str]:
    """The same texts, and a comment whenever none came for `interval_s`."""
    coming = asyncio.ensure_future(anext(texts, None))
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=interval_s)
            if not done:
                yield KEEP_ALIVE
                continue
            if (text := coming.result()) is None:
                return
            yield text
            coming = asyncio.ensure_future(anext(texts, None))
    finally:
        coming.cancel()


async def _texts(
    events: AsyncIterator[tuple[str, Event]], first: tuple[str, Event] | None
) -> AsyncIterator[str]:
    if first is not None:
        yield _text(*first)
    async for event_id, event in events:
        yield _text(event_id, event)


def _text(event_id: str, event: Event) -> str:
    kind = "done" if event.status.is_final else event.kind
    return f"id: {event_id}\nevent: {kind}\ndata: {event.model_dump_json()}\n\n"
