"""How a worker's rows end: results, failures and retries, written while the engine goes on."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service import images
from service.engine.updates import EditDone
from service.errors import DiffPluginError, EditFailed, QueueUnavailable
from service.images import ImageLimits, Output, UnitPixels
from service.job_queue import Claim, JobQueue
from service.jobs import JobError, JobStatus
from service.logs import about
from service.metrics_worker import EngineMetrics
from service.queue_records import STATUS_OF_ERROR, may_retry
from service.tracing import Tracer, spans_of_edit
from service.worker_rows import Backoff, Row

log = logging.getLogger(__name__)

NUM_CODEC_THREADS = max(2, (os.cpu_count() or 1) // 2)

T = TypeVar("T")
Write = Callable[[], Awaitable[bool]]


class Ends:
    """Writes ends in the background; a row leaves `rows` once its end is written or refused."""

    def __init__(
        self,
        queue: JobQueue,
        metrics: EngineMetrics,
        limits: ImageLimits,
        rows: dict[str, Row],
        tracer: Tracer,
    ) -> None:
        self._queue, self._metrics, self._limits, self._rows = queue, metrics, limits, rows
        self._tracer = tracer
        self._codecs = ThreadPoolExecutor(NUM_CODEC_THREADS, thread_name_prefix="codecs")
        self.tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self.tasks)

    async def in_codec_thread(self, function: Callable[..., T], *args: object) -> T:
        """Pictures are read and written by few threads: more would only hold up the engine's."""
        return await asyncio.get_running_loop().run_in_executor(self._codecs, function, *args)

    def give_up(self) -> None:
        """Stop writing; what is not written is somebody else's to finish."""
        for task in self.tasks:
            task.cancel()

    def complete(self, row: Row, done: EditDone) -> None:
        engine_s = {"prepare_s", "denoise_s", "finish_s"}
        row.measure(**done.timings.model_dump(include=engine_s))
        self._start(row, lambda: self._encode_and_complete(row, done))

    def complete_untouched(self, row: Row) -> None:
        self._start(row, lambda: self._write_untouched(row))

    def fail_or_retry(self, row: Row, error: DiffPluginError) -> None:
        """What the engine could not do, another attempt may; a wrong request fails at once."""
        if not isinstance(error, EditFailed):
            self.fail(row, error)
            return
        record = JobError(code=error.code, detail=str(error))
        self._start(row, lambda: self._write_retry(row, record))

    def fail(self, row: Row, error: Exception) -> None:
        record = _record(row.claim, error)
        self._start(row, lambda: self._write_failure(row, record))

    async def _encode_and_complete(self, row: Row, done: EditDone) -> bool:
        start = time.perf_counter()
        try:
            result = await self.in_codec_thread(self._encode, row, done.restored)
        except Exception as error:
            return await self._write_failure(row, _record(row.claim, error))
        row.measure(encode_s=time.perf_counter() - start)
        media_type = images.MEDIA_TYPES[row.claim.job.request.output_format]
        return await self._queue.complete(
            row.claim, result, media_type, row.timings, versions=done.versions
        )

    def _encode(self, row: Row, restored: UnitPixels) -> bytes:
        mask = images.read_mask(row.claim.mask, self._limits, row.photo.shape)
        output = Output.of(row.claim.job.request)
        return images.write_photo(row.photo, restored, output, row.plugins, mask)

    async def _write_untouched(self, row: Row) -> bool:
        image = row.claim.image
        return await self._queue.complete(
            row.claim, image, images.media_type(image), row.timings, no_op=True
        )

    async def _write_failure(self, row: Row, record: JobError) -> bool:
        row.status, row.code = STATUS_OF_ERROR.get(record.code, JobStatus.FAILED), record.code
        return await self._queue.fail(row.claim, record, row.timings)

    async def _write_retry(self, row: Row, record: JobError) -> bool:
        row.status = None if may_retry(row.claim, self._queue.settings) else JobStatus.FAILED
        row.code = record.code
        return await self._queue.retry(row.claim, record, row.timings)

    def _start(self, row: Row, write: Write) -> None:
        row.is_ending = True
        task = asyncio.create_task(self._write_end(row, write))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _write_end(self, row: Row, write: Write) -> None:
        try:
            if await self._until_redis_answers(row, write):
                self._tell(row)
            else:
                log.info("ended or taken over; nothing changes", extra=about(row.claim.job))
        except Exception:
            log.exception("the end is not written; its lease runs out", extra=about(row.claim.job))
        finally:
            self._rows.pop(row.id, None)

    def _tell(self, row: Row) -> None:
        """Metrics, spans and the log read one clock: the timings that the caller gets, too."""
        fault = "" if row.code == "ok" else row.code
        self._tracer.add(*spans_of_edit(row.claim.job, row.timings, fault))
        if row.status is None:  # it is retried: not the end
            return
        self._metrics.observe_job(row.status, row.timings, row.plugins, row.code)
        context = about(row.claim.job, row.timings)
        log.info("%s %s", row.status, ",".join(row.plugins), extra=context)

    async def _until_redis_answers(self, row: Row, write: Write) -> bool:
        """The work is done: a Redis that is away for a minute must not cost it."""
        backoff = Backoff()
        while True:
            try:
                return await write()
            except QueueUnavailable as error:
                log.warning("the end must wait: %s", error, extra=about(row.claim.job))
                await backoff.sleep()


def _record(claim: Claim, error: Exception) -> JobError:
    """What a job's owner is told; what is not in the tree of errors is logged in full."""
    if not isinstance(error, DiffPluginError):
        log.exception("the job failed", exc_info=error, extra=about(claim.job))
        error = EditFailed(f"{type(error).__name__}: {error}")
    return JobError(code=error.code, detail=str(error))
