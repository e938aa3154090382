"""Previews of a worker: encoded beside the engine, and published among the job's events."""

import asyncio
import base64
import logging

from service.engine.updates import PreviewDone
from service.errors import QueueUnavailable
from service.image_mask import read_mask
from service.image_preview import MEDIA_TYPE, preview_of
from service.images import ImageLimits
from service.job_queue import JobQueue
from service.jobs import Preview
from service.worker_rows import Row

log = logging.getLogger(__name__)


async def show_preview(queue: JobQueue, row: Row, done: PreviewDone, limits: ImageLimits) -> None:
    """Publish one preview. A Redis that is away costs the preview alone."""
    row.num_previews += 1
    file = await asyncio.to_thread(_encode, row, done, limits)
    preview = Preview(
        number=row.num_previews,
        media_type=MEDIA_TYPE,
        base64=base64.b64encode(file).decode(),
    )
    try:
        row.is_lost |= not await queue.show(row.claim, done.progress, preview)
    except QueueUnavailable as error:
        log.warning("a preview of job %s is not published: %s", row.claim.job.id, error)


def _encode(row: Row, done: PreviewDone, limits: ImageLimits) -> bytes:
    mask = read_mask(row.claim.mask, limits, row.photo.shape)
    return preview_of(row.photo, done.expected, row.claim.job.request.strength, mask)
