"""The one door of every wire: image bytes and checked fields in, a Job out. It knows no wire."""

import asyncio
import hashlib
import re
import secrets
import time

from service import errors
from service.api.admission import Admission
from service.api.estimates import demand_of, estimate_s
from service.api.glance import Glance
from service.api.schemas import MAX_SEED, EditFields, Fields
from service.api.webhook_sender import follow
from service.api.webhook_target import resolve
from service.image_mask import mask_of_alpha
from service.image_whole import PNG_START
from service.images import ImageLimits, OutputFormat, check_files, media_type, upright_size
from service.job_queue import JobQueue
from service.jobs import EditRequest, Job, Plan, PlannedTask, Priority, WorkerInfo
from service.plugin_manifest import InstalledPlugins, PluginManifest
from service.queue_plugins import FleetPlugins
from service.queue_records import OnceKey, Stage, error_of, pack_input
from service.settings import Settings
from service.trace_context import CURRENT

MAX_KEY_CHARS = 255
FRESH_S = 0.5  # how old what is known of plugins and workers may be
JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
EVENT_ID = re.compile(r"[0-9]{1,19}(-[0-9]{1,19})?")


class Intake:
    """Refuses early what cannot succeed, then hands jobs to the queue and answers for them."""

    def __init__(self, queue: JobQueue, settings: Settings) -> None:
        self.queue = queue
        self._settings = settings
        self.admission = Admission(queue)
        self._fleet = FleetPlugins(queue, settings.base)
        self._installed = InstalledPlugins(settings.plugins_store, settings.base)
        self._plugins = Glance(self._ask_plugins, FRESH_S)
        self._live = Glance(self.live, FRESH_S)
        self.limits = ImageLimits(
            settings.max_image_bytes, settings.max_image_pixels, settings.min_image_side
        )

    async def submit_edit(
        self,
        image: bytes,
        fields: EditFields,
        mask: bytes = b"",
        idempotency_key: str | None = None,
        job_id: str | None = None,
    ) -> Job:
        """Queue an edit; any of ClientError or Unavailable if it cannot be served.

        The same key, or the same id, with the same image, mask and fields is the same job.
        """
        kept = pack_input(image, mask)
        once = _once_key(kept, fields, idempotency_key, job_id)
        self._check_fields(fields)
        if not (fields.instruction.strip() or fields.plugins or fields.plan):
            raise invalid(
                "instruction",
                "say what to do: send an instruction, or name plugins to run (GET /v1/plugins)",
            )
        request = EditRequest(
            instruction=fields.instruction,
            plugins=fields.plugins,
            steps=fields.steps,
            seed=secrets.randbelow(MAX_SEED + 1) if fields.seed is None else fields.seed,
            output_format=fields.output_format,
            priority=Priority(fields.priority),
            output_quality=fields.output_quality,
            metadata=fields.metadata,
            strength=fields.strength,
            previews=fields.previews,
            webhook=fields.webhook,
            webhook_events_filter=fields.webhook_events_filter if fields.webhook else (),
        )
        await self._check_webhook(fields.webhook)
        plan = await self._given_plan(fields)
        size = await self._check_files(image, mask, request.output_format)
        return await self._submit(kept, request, plan, size, fields.timeout, once, job_id)

    async def submit_plan(self, image: bytes, fields: Fields) -> Job:
        """Queue a job that ends with its plan."""
        self._check_fields(fields)
        if not fields.instruction.strip():
            raise invalid("instruction", "say what to do: send an instruction to be planned")
        request = EditRequest(instruction=fields.instruction, plan_only=True)
        size = await self._check_files(image, b"", request.output_format)
        return await self._submit(image, request, None, size, fields.timeout)

    def mask_of_alpha(self, data: bytes) -> bytes:
        """A mask as OpenAI's clients send it -> one as submit_edit takes it."""
        return mask_of_alpha(data, self.limits)

    async def finish(self, job: Job) -> Job:
        """The job once it has succeeded; raises what it ended with, or DeadlineExceeded."""
        deadline_at = job.deadline_at or time.time() + self._settings.request_timeout_s
        try:
            ended = await self.queue.end_of(job, max(0.0, deadline_at - time.time()))
        except errors.DeadlineExceeded:
            ended = await self.queue.get(job.id)  # whoever looks at a late job ends it
            if not ended.status.is_final:
                raise
        raise_for(ended)
        return ended

    async def result_of(self, job: Job) -> tuple[bytes, str]:
        """Image file and media type that a job ended with."""
        raise_for(job)
        if job.request.plan_only:
            raise errors.JobNotFound(f"job {job.id} only made a plan; POST /v1/edit makes an image")
        result = await self.queue.result_file(job.id)
        return result, job.result_type or media_type(result)

    async def estimate_s(self, job: Job, image: bytes) -> float | None:
        """Seconds that an edit by the plan of `job` would take; None if that is not known."""
        plugins, (workers, _) = await self.plugins(), await self.live()
        waiting = (await self.queue.depth())[Stage.RUN].waiting
        size = await asyncio.to_thread(upright_size, image)
        plan_s = job.timings.plan_s
        edit_s = estimate_s(job.plan or Plan(), size, plugins, workers, waiting)
        return None if edit_s is None else plan_s + edit_s

    async def plugins(self) -> dict[str, PluginManifest]:
        """The plugins that are served, by name."""
        return await self._plugins.ask()

    async def _ask_plugins(self) -> dict[str, PluginManifest]:
        installed = await asyncio.to_thread(self._installed.read)
        return (await self._fleet.published()).over(installed)

    async def live(self) -> tuple[list[WorkerInfo], list[WorkerInfo]]:
        """Live workers and live selectors."""
        alive = await self.queue.workers()
        workers = [info for info in alive if info.role == "worker"]
        return workers, [info for info in alive if info.role == "selector"]

    async def _submit(
        self,
        kept: bytes,
        request: EditRequest,
        plan: Plan | None,
        size: tuple[int, int],
        timeout_s: float | None,
        once: OnceKey | None = None,
        job_id: str | None = None,
    ) -> Job:
        deadline_at = time.time() + (timeout_s or self._settings.request_timeout_s)
        workers = await self._check_live(request, plan)
        demand = demand_of(plan, request.steps, size, await self._plugins.get(), workers)
        named = {"id": job_id} if job_id else {}
        trace = CURRENT.get()
        job = Job(request=request, plan=plan, deadline_at=deadline_at, traceparent=trace, **named)
        try:
            submitted = await self.queue.submit(job, kept, once, demand)
        finally:
            self.admission.leave()
        if request.webhook is not None and submitted is job:
            await follow(self.queue, job.id)
        return submitted

    async def _check_files(
        self, image: bytes, mask: bytes, output_format: OutputFormat
    ) -> tuple[int, int]:
        """Width and height; any of ClientError that the files show."""
        if not mask and image.startswith(PNG_START):
            # A few dozen microseconds: a thread would cost more.
            return check_files(image, mask, output_format, self.limits)
        return await asyncio.to_thread(check_files, image, mask, output_format, self.limits)

    async def _given_plan(self, fields: EditFields) -> Plan | None:
        """The plan of a request that brings one, or names its plugins: it skips the selector."""
        if fields.plan is not None:
            plan = fields.plan.model_copy(update={"source": "request"})
        elif fields.plugins is not None:
            tasks = tuple(PlannedTask(plugin=name) for name in fields.plugins)
            plan = Plan(tasks=tasks, source="request")
        else:
            return None
        if len(plan.tasks) > self._settings.max_tasks:
            field = "plugins" if fields.plan is None else "plan"
            raise invalid(field, f"name at most {self._settings.max_tasks} plugins")
        await self._check_plugins(plan.runnable)
        return plan

    def _check_fields(self, fields: Fields) -> None:
        limits = self._settings
        if len(fields.instruction) > limits.max_instruction_chars:
            raise invalid(
                "instruction",
                f"the instruction has {len(fields.instruction)} characters; "
                f"at most {limits.max_instruction_chars} are accepted",
            )
        if fields.timeout is not None and fields.timeout > limits.result_ttl_s:
            raise invalid("timeout", f"timeout may be at most {limits.result_ttl_s} seconds")
        steps = fields.steps if isinstance(fields, EditFields) else None
        if steps is not None and steps > limits.max_steps:
            raise invalid("steps", f"steps may be at most {limits.max_steps}")

    async def _check_webhook(self, url: str | None) -> None:
        if url is None:
            return
        if not self._settings.webhook_secret:
            raise invalid("webhook", "webhooks are off: DIFFPLUGIN_WEBHOOK_SECRET is not set")
        await resolve(url, self._settings.webhook_allow_private)

    async def _check_plugins(self, names: tuple[str, ...]) -> None:
        installed = await self._plugins.get()
        if not all(name in installed for name in names):
            installed = await self.plugins()  # one that was published a moment ago
        unknown = [name for name in names if name not in installed]
        if unknown:
            raise errors.UnknownPlugin(
                f"no plugin is called {', '.join(map(repr, unknown))}; "
                f"installed are: {', '.join(installed) or 'none'}"
            )

    async def _check_live(self, request: EditRequest, plan: Plan | None) -> list[WorkerInfo]:
        """The live workers; NoWorker at once, rather than a job that waits for nobody."""
        workers, selectors = await self._live.get()
        if not workers or (plan is None and not selectors):
            workers, selectors = await self.live()  # one that was started a moment ago
        if not workers and not request.plan_only:
            raise errors.NoWorker("no worker is alive; start one: diffplugin worker")
        if not selectors and plan is None:
            raise errors.NoWorker(
                "no selector is alive; start one (diffplugin selector) or name the plugins to run"
            )
        return workers


def _once_key(
    kept: bytes, fields: EditFields, key: str | None, job_id: str | None
) -> OnceKey | None:
    """Hashed: a key is the caller's and may be long or hold anything."""
    if job_id is not None:
        if not JOB_ID.fullmatch(job_id):
            raise invalid("client_id", f"the id must match {JOB_ID.pattern}")
        key = f"id {job_id}"
    if key is None:
        return None
    if not key.strip() or len(key) > MAX_KEY_CHARS:
        raise errors.InvalidRequest(f"Idempotency-Key must have 1 to {MAX_KEY_CHARS} characters")
    digest = hashlib.sha256(kept)
    digest.update(fields.model_dump_json().encode())
    return OnceKey(hashlib.sha256(key.encode()).hexdigest(), digest.hexdigest())


def check_event_id(field: str, value: str) -> str:
    """The id of an event that was sent before; "0", before all of them, if there is none."""
    if value and not EVENT_ID.fullmatch(value):
        raise invalid(field, f"{field} is not the id of an event: {value[:40]!r}")
    return value or "0"


def invalid(field: str, message: str) -> errors.InvalidRequest:
    """The error that one field is wrong."""
    return errors.InvalidRequest(message, {field: message})


def raise_for(job: Job) -> None:
    """Raise the error that a job ended with, JobNotFinished if it has not ended."""
    if not job.status.is_final:
        raise errors.JobNotFinished(f"job {job.id} is {job.status}; ask again later")
    if job.error is not None:
        raise error_of(job.error)
