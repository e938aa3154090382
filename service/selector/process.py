"""The selector role: claims jobs that need a plan, plans them, hands them on or ends them.

One job's failure fails that job alone. SIGTERM: no new claims, the job at hand is finished.
"""

import asyncio
import contextlib
import logging
import time

import torch

from service.consumer_names import consumer_name
from service.errors import DiffPluginError, EditFailed, QueueUnavailable
from service.images import ImageLimits, Pixels, decode, media_type
from service.job_queue import Claim, JobQueue, QueueSettings, Stage
from service.jobs import JobError, JobStatus, Plan, WorkerInfo
from service.logs import about
from service.metrics_worker import EngineMetrics
from service.queue_plugins import FleetPlugins
from service.selector.planner import Planning, load_planner
from service.settings import Settings
from service.signals import stop_on_signals
from service.tracing import Tracer, span_of_plan

CLAIM_BLOCK_S = 0.3
RETRY_PAUSE_S = 1.0

log = logging.getLogger(__name__)


async def run_selector(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends at once."""
    torch.set_num_threads(settings.num_threads or 1)
    planner = await asyncio.to_thread(
        load_planner, settings.plugins_store, settings.base, settings.device
    )
    stop = asyncio.Event()
    stop_on_signals(stop.set)
    tracer = Tracer.connect(settings.traces_url, "selector")
    queue = JobQueue.connect(settings.redis_url, QueueSettings.from_settings(settings))
    try:
        await SelectorProcess(queue, planner, settings, tracer).run(stop)
    finally:
        await asyncio.to_thread(tracer.close)
        await queue.close()


class SelectorProcess:
    """One selector on one queue."""

    def __init__(
        self,
        queue: JobQueue,
        planner: Planning,
        settings: Settings,
        tracer: Tracer | None = None,
    ) -> None:
        self.metrics, self._tracer = EngineMetrics(), tracer or Tracer()
        self.name = consumer_name("selector")
        self._queue, self._planner, self._settings = queue, planner, settings
        self._fleet = FleetPlugins(queue, settings.base)
        self._claims: list[Claim] = []
        self._limits = ImageLimits(
            settings.max_image_bytes, settings.max_image_pixels, settings.min_image_side
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Claim and plan until `stop` is set, then say goodbye."""
        beating = asyncio.create_task(self._beat(stop))
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                await self._serve_next(stopped)
        finally:
            stopped.cancel()
            await asyncio.wait([beating], timeout=self._settings.heartbeat_s)
            with contextlib.suppress(QueueUnavailable):
                await self._queue.goodbye(self.name)

    async def _serve_next(self, stopped: "asyncio.Task[bool]") -> None:
        """One claim, if there is one; an outage of Redis is waited out."""
        try:
            self._claims = await self._queue.claim(Stage.PLAN, self.name, 1, CLAIM_BLOCK_S)
            self.metrics.observe_claims(self._claims)
            for claim in self._claims:
                await self._serve(claim)
        except QueueUnavailable as error:
            log.warning("%s; trying again", error)
            await asyncio.wait([stopped], timeout=RETRY_PAUSE_S)

    async def _serve(self, claim: Claim) -> None:
        started = time.monotonic()
        try:
            plan = await asyncio.to_thread(self._plan, claim)
        except QueueUnavailable:
            raise
        except DiffPluginError as error:  # this job fails, the others go on
            if await self._queue.fail(claim, JobError(code=error.code, detail=str(error))):
                self.metrics.observe_job(JobStatus.FAILED, claim.job.timings, code=error.code)
            return
        except Exception as error:
            log.exception("planning failed", extra=about(claim.job))
            detail = f"the selector failed: {error}"
            await self._queue.retry(claim, JobError(code=EditFailed.code, detail=detail))
            return
        await self._pass_on(claim, plan, time.monotonic() - started)

    def _plan(self, claim: Claim) -> Plan:
        return self._planner.plan(self._pixels(claim), claim.job.request.instruction)

    def _pixels(self, claim: Claim) -> Pixels | None:
        """Only VP looks at the picture, so without it no pixel is decoded."""
        return decode(claim.image, self._limits) if self._planner.reads_images else None

    async def _pass_on(self, claim: Claim, plan: Plan, plan_s: float) -> None:
        """To the workers; or the end, if nothing is to be run or only the plan was asked for."""
        self._tracer.add(span_of_plan(claim.job, plan_s))
        if plan.runnable and not claim.job.request.plan_only:
            await self._queue.planned(claim, plan, plan_s)
            return
        timings = claim.job.timings.model_copy(
            update={"plan_s": plan_s, "total_s": time.time() - claim.job.created_at}
        )
        is_ours = await self._queue.complete(
            claim, claim.image, media_type(claim.image), timings,
            no_op=not plan.runnable, plan=plan,
        )  # fmt: skip
        if is_ours:
            self.metrics.observe_job(JobStatus.SUCCEEDED, timings)
            log.info("planned, nothing to run", extra=about(claim.job, timings))

    async def _beat(self, stop: asyncio.Event) -> None:
        """Heartbeats, and the lease of the job at hand, however long its planning takes."""
        pause_s = min(self._settings.heartbeat_s, self._queue.settings.lease_s / 4)
        while not stop.is_set():  # a cancel that arrives with Redis' answer can get lost in it
            with contextlib.suppress(QueueUnavailable):
                await self._follow_plugins()
                info = WorkerInfo(
                    name=self.name, role="selector", backbone=self._settings.base, device="cpu",
                    plugins=self._planner.plugins, versions=self._planner.versions, free_slots=1,
                )  # fmt: skip
                await self._queue.heartbeat(info)
                await self.metrics.publish(self._queue, self.name)
                await self._queue.renew(self._claims)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause_s)

    async def _follow_plugins(self) -> None:
        if await self._fleet.generation() != self._planner.published.generation:
            self._planner.published = await self._fleet.published()
