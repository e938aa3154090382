"""The worker's loop: claim -> engine.step() -> publish, one engine, one device.

The engine blocks, so it runs on a thread of its own: leases are renewed, jobs canceled and
heartbeats sent while a step is under way. Between two steps, and only then, edits enter and leave.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from service import images
from service.engine.edit import Edit
from service.engine.updates import (
    BatchDone,
    EditDone,
    EditFailed,
    PreviewDone,
    StepDone,
    TaskDone,
    Update,
)
from service.errors import QueueUnavailable
from service.images import ImageLimits
from service.interpreter import favour_steps
from service.job_queue import Claim, JobQueue, Stage, error_of
from service.jobs import WorkerInfo
from service.logs import about
from service.metrics_worker import EngineMetrics, EngineState
from service.plugin_manifest import Published
from service.queue_plugins import FleetPlugins
from service.queue_records import is_late, late_error
from service.tracing import Tracer
from service.worker_ends import Ends
from service.worker_previews import show_preview
from service.worker_rows import Backoff, Pace, Row, checkpoint_of, pixels_of

log = logging.getLogger(__name__)

FOLLOW_PAUSE_S = 0.25
FAULT_PAUSE_S = 5.0  # before a published plugin that could not be loaded is tried again
TOGETHER_S = 0.25  # for which an idle engine waits for the slower pictures of one claim
IDLE_BLOCK_S = 1.0  # how long a stop may go unnoticed while there is nothing to do


class StepEngine(EngineState, Protocol):
    """What the worker asks of service.engine.engine.Engine."""

    @property
    def num_free_slots(self) -> int: ...
    @property
    def has_work(self) -> bool: ...
    @property
    def plugins(self) -> tuple[str, ...]: ...
    @property
    def versions(self) -> Mapping[str, str]: ...
    def follow(self, published: Published) -> Mapping[str, str]: ...
    def add(self, edit: Edit) -> None: ...
    def abort(self, edit_id: str) -> None: ...
    def step(self) -> Sequence[Update]: ...


@dataclass(frozen=True)
class WorkerSettings:
    """Who the worker is, what it accepts, and how long it may take to stop."""

    name: str
    backbone: str
    device: str
    limits: ImageLimits
    shutdown_grace_s: float = 30.0


class Worker:
    """run() until stop(); or, in burst mode, until nothing is left to do."""

    def __init__(
        self,
        queue: JobQueue,
        engine: StepEngine,
        settings: WorkerSettings,
        tracer: Tracer | None = None,
    ) -> None:
        self.queue, self.engine, self.settings = queue, engine, settings
        self.metrics = EngineMetrics(engine)
        self.is_stopping = False
        self._is_drained = False
        self._wants_to_be_empty = False  # to run a job alone that may end the process
        self._rows: dict[str, Row] = {}
        self._opening: set[asyncio.Task[Row | None]] = set()
        self._lost: list[Claim] = []  # to be counted
        self._ends = Ends(queue, self.metrics, settings.limits, self._rows, tracer or Tracer())
        self._fleet = FleetPlugins(queue, settings.backbone)
        self._published, self._faults = Published(), dict[str, str]()
        self._updates: Sequence[Update] = ()  # of the last step, to be published
        self._backoff = Backoff()
        self._pace = Pace()
        self._num_slots = engine.num_free_slots
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")

    def stop(self) -> None:
        """Claim no more; run() ends within the grace period."""
        self.is_stopping = True

    async def run(self, burst: bool = False) -> None:
        """Serve. What goes wrong with one job fails that job; a broken engine ends the worker."""
        favour_steps()
        try:
            async with asyncio.TaskGroup() as tasks:
                keeper = tasks.create_task(self._keep_alive())
                follower = tasks.create_task(self._follow_plugins())
                is_idle = False
                while not (self.is_stopping or (burst and is_idle)):
                    is_idle = await self._cycle(0.0 if burst else IDLE_BLOCK_S)
                await self._drain()
                self._is_drained = True
                keeper.cancel()
                follower.cancel()
            await self._say_goodbye()
        finally:
            self._thread.shutdown(wait=False)

    async def _cycle(self, block_s: float) -> bool:
        """One engine step; meanwhile what the last one did is told, and new jobs are claimed.

        True if there was nothing to do.
        """
        was_busy = bool(self._rows or self._ends)
        num_free = self._num_free()  # the engine is not asked while it is in a step
        step = self._start_step()
        await self._publish(self._updates)
        self._updates = ()
        is_waiting = not (step or self._opening or self._ends)
        claims = await self._claim(num_free, block_s if is_waiting else 0.0)
        self._opening |= {self._start_opening(claim) for claim in claims}
        if step:
            self._updates, seconds = await step
            self._pace.observe_step(self._pixels_of(self._updates), seconds)
        else:
            await self._wait_beside_no_step()
        self._drop_rows()
        self._add_opened()
        return not (was_busy or claims)

    async def _wait_beside_no_step(self) -> None:
        """Until a row is opened or ended; what was claimed together also begins together."""
        if self._opening:
            await asyncio.wait(self._opening, timeout=TOGETHER_S)
        if (beside := self._opening | self._ends.tasks) and not any(t.done() for t in beside):
            await asyncio.wait(beside, return_when=asyncio.FIRST_COMPLETED)

    def _start_step(self) -> asyncio.Future[tuple[Sequence[Update], float]] | None:
        if not self.engine.has_work:
            return None
        return asyncio.get_running_loop().run_in_executor(self._thread, self._timed_step)

    def _timed_step(self) -> tuple[Sequence[Update], float]:
        start = time.perf_counter()
        return self.engine.step(), time.perf_counter() - start

    def _pixels_of(self, updates: Sequence[Update]) -> int:
        """Of the rows that were advanced by a step."""
        rows = (self._rows.get(update.id) for update in updates if isinstance(update, StepDone))
        return sum(math.prod(row.photo.shape) for row in rows if row is not None)

    def _num_free(self) -> int:
        """Places in the engine. Ends are written beside it, but no more than it has places."""
        num_taken = len(self._opening) + max(0, len(self._ends) - self._num_slots)
        return self.engine.num_free_slots - num_taken

    async def _claim(self, num_free: int, block_s: float) -> list[Claim]:
        """Never more than the engine has room for: what waits here, no other worker can take."""
        if self.is_stopping or num_free <= 0 or (self._wants_to_be_empty and self._rows):
            return []
        num_free = 1 if self._wants_to_be_empty else num_free
        try:
            claims = await self.queue.claim(Stage.RUN, self.settings.name, num_free, block_s)
        except QueueUnavailable as error:
            log.warning("no jobs can be claimed: %s", error)
            await self._backoff.sleep()
            return []
        self._backoff.reset()
        self.metrics.observe_claims(claims)
        return await self._let_last_chances_run_alone(claims)

    async def _let_last_chances_run_alone(self, claims: list[Claim]) -> list[Claim]:
        """Hand back what may not run together; its delivery does not count.

        A job that ends the process takes the others with it. On its last delivery it is alone, so
        that nobody else is given up because of it.
        """
        max_deliveries = self.queue.settings.max_deliveries
        last = [claim for claim in claims if claim.delivery >= max_deliveries > 1]
        self._wants_to_be_empty = bool(last)
        if not last:
            return claims
        kept = [claim for claim in claims if claim not in last] if self._rows else last[:1]
        for claim in claims:
            if claim not in kept:
                await self._hand_back(claim)
        return kept

    def _start_opening(self, claim: Claim) -> asyncio.Task[Row | None]:
        """Beside the engine, which does not wait for it."""
        row = Row(claim, claim.job.timings)
        self._rows[row.id] = row  # from now on its lease is renewed
        return asyncio.create_task(self._open(row))

    async def _open(self, row: Row) -> Row | None:
        """With its photo read; None if its end is known already."""
        if not row.plugins:
            self._ends.complete_untouched(row)
            return None
        start = time.perf_counter()
        try:
            limits = self.settings.limits
            row.photo = await self._ends.in_codec_thread(images.read_photo, row.claim.image, limits)
        except Exception as error:
            self._ends.fail(row, error)
            return None
        row.measure(decode_s=time.perf_counter() - start)
        return row

    def _add_opened(self) -> None:
        done = {task for task in self._opening if task.done()}
        self._opening -= done
        for row in sorted(filter(None, (task.result() for task in done)), key=_age):
            self._add(row)

    def _add(self, row: Row) -> None:
        if row.id not in self._rows or row.is_ending:
            return  # dropped while it was decoded
        request = row.claim.job.request
        try:
            checkpoint = row.claim.checkpoint
            resumed = pixels_of(checkpoint) if checkpoint else None
            wishes = (request.steps, request.seed, row.num_done, resumed, request.previews)
            versions = checkpoint.versions if checkpoint else {}
            self.engine.add(Edit(row.id, row.photo.pixels, row.plugins, *wishes, versions))
        except Exception as error:
            self._ends.fail(row, error)

    async def _publish(self, updates: Sequence[Update]) -> None:
        """Progress first, so that a cancel is noticed before the present step ends."""
        await self._report([update for update in updates if isinstance(update, StepDone)])
        tasks = [update for update in updates if isinstance(update, TaskDone)]
        await asyncio.gather(*(self._save(task) for task in tasks))
        for update in updates:
            if isinstance(update, BatchDone):
                self.metrics.observe_batch(update.plugins, update.seconds, update.max_edits)
            elif isinstance(update, PreviewDone) and (row := self._live(update.id)):
                await show_preview(self.queue, row, update, self.settings.limits)
            elif isinstance(update, EditDone) and (row := self._live(update.id)):
                self._pace.observe(update.timings, row.photo.shape, update.num_steps)
                self._ends.complete(row, update)
            elif isinstance(update, EditFailed) and (row := self._live(update.id)):
                self._ends.fail_or_retry(row, update.error)

    def _live(self, row_id: str) -> Row | None:
        row = self._rows.get(row_id)
        return None if row is None or row.is_lost or row.is_ending else row

    async def _report(self, steps: Sequence[StepDone]) -> None:
        live = [(row, step.progress) for step in steps if (row := self._live(step.id))]
        try:
            reports = [(row.claim, progress) for row, progress in live]
            holds = await self.queue.report_all(reports)
        except QueueUnavailable as error:
            log.warning("progress is not published: %s", error)
            return
        for (row, _), is_held in zip(live, holds, strict=True):
            row.is_lost |= not is_held

    async def _save(self, done: TaskDone) -> None:
        """Keep a finished task, so that whoever takes the job over starts at the next one."""
        row = self._live(done.id)
        if row is None:
            return
        checkpoint = await asyncio.to_thread(checkpoint_of, done)
        try:
            row.is_lost = not await self.queue.save(row.claim, checkpoint)
        except QueueUnavailable as error:
            log.warning("task %d is not kept: %s", done.task, error, extra=about(row.claim.job))

    def _drop_rows(self) -> None:
        """Take lost and late rows out of the engine."""
        for row in [row for row in self._rows.values() if not row.is_ending]:
            if row.is_lost:
                log.info("ended or taken over; it is dropped", extra=about(row.claim.job))
                self._lost.append(row.claim)
                self.engine.abort(row.id)
                del self._rows[row.id]
            elif is_late(row.claim.job):
                self.engine.abort(row.id)
                self._ends.fail(row, error_of(late_error(row.claim.job)))

    # -- leases, heartbeats and the stop -------------------------------------------------------

    async def _keep_alive(self) -> None:
        """Renew leases and send heartbeats, whatever the engine is doing."""
        pause_s = min(self.queue.settings.lease_s / 4, self.queue.settings.heartbeat_s, 1.0)
        # Not `while True`: a cancel that arrives together with Redis' answer can get lost in it.
        while not self._is_drained:
            try:
                await self.queue.heartbeat(self._info())
                await self.metrics.publish(self.queue, self.settings.name)
                rows = list(self._rows.values())
                lost = await self.queue.renew([row.claim for row in rows])
                for row in rows:
                    row.is_lost |= row.claim in lost
                gone, self._lost = self._lost, []
                await self.metrics.observe_lost(self.queue, gone)
            except QueueUnavailable as error:
                log.warning("leases cannot be renewed: %s", error)
            await asyncio.sleep(pause_s)

    async def _follow_plugins(self) -> None:
        """Load what is published, on the side: loading may take longer than a lease."""
        try_again_at = 0.0
        while not self._is_drained:
            with contextlib.suppress(QueueUnavailable):
                is_new = await self._fleet.generation() != self._published.generation
                if is_new or (self._faults and time.monotonic() > try_again_at):
                    try_again_at = time.monotonic() + FAULT_PAUSE_S
                    self._published = await self._fleet.published()
                    follow = self.engine.follow
                    self._faults = dict(await asyncio.to_thread(follow, self._published))
            await asyncio.sleep(FOLLOW_PAUSE_S)

    def _info(self) -> WorkerInfo:
        return WorkerInfo(
            name=self.settings.name,
            role="worker",
            backbone=self.settings.backbone,
            device=self.settings.device,
            plugins=self.engine.plugins,
            versions=dict(self.engine.versions),
            faults=self._faults,
            free_slots=self.engine.num_free_slots,
            step_s_per_mpx=self._pace.step_s_per_mpx,
            pixel_steps_per_s=self._pace.pixel_steps_per_s,
        )

    async def _drain(self) -> None:
        """Finish what runs, within the grace period; hand the rest back."""
        self.is_stopping = True
        give_up_at = time.monotonic() + self.settings.shutdown_grace_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.shutdown_grace_s):
                while self._rows and time.monotonic() < give_up_at:
                    await self._cycle(0.0)
        self._ends.give_up()
        for row in list(self._rows.values()):
            await self._hand_back(row.claim)

    async def _hand_back(self, claim: Claim) -> None:
        try:
            await self.queue.release(claim)
        except QueueUnavailable as error:
            log.warning("job %s waits for its lease to run out: %s", claim.job.id, error)

    async def _say_goodbye(self) -> None:
        try:
            await self.queue.goodbye(self.settings.name)
        except QueueUnavailable as error:
            log.warning("this worker is listed until its heartbeat is missed: %s", error)


def _age(row: Row) -> float:
    return row.claim.job.created_at
