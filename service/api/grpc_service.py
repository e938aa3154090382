"""The calls of EditService: a thin skin over Intake, like the REST routes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from grpc.aio import ServicerContext

from service.api import grpc_messages as messages
from service.api.grpc_errors import Edge, answers_errors
from service.api.grpc_upload import read_upload
from service.api.intake import Intake, check_event_id, raise_for
from service.errors import DiffPluginError
from service.jobs import Job, JobStatus, Plan
from service.pb.diffplugin.v1 import edit_pb2 as pb

T = TypeVar("T")
Follow = Callable[[Job], Coroutine[Any, Any, T]]


class EditService:
    """`max_timeout_s` caps the deadlines of calls; beyond it a job would be forgotten anyway."""

    def __init__(self, intake: Intake, edge: Edge, max_timeout_s: float) -> None:
        self._intake = intake
        self.edge = edge
        self._max_timeout_s = max_timeout_s

    @answers_errors
    async def Edit(self, request: pb.EditRequest, context: ServicerContext) -> pb.EditResponse:
        fields = messages.edit_fields(request, self._timeout_s(context))
        submission = self._intake.submit_edit(request.image, fields, request.mask)
        return await self._attached(submission, self._result)

    @answers_errors
    async def EditStream(self, request: pb.EditStreamRequest, context: ServicerContext) -> None:
        async def report(job: Job) -> None:
            await context.write(pb.EditStreamResponse(id=job.id))
            async for update in self._updates(job):
                await context.write(update)
            ended = await self._intake.queue.get(job.id)
            await context.write(pb.EditStreamResponse(result=await self._result(ended)))

        fields = messages.edit_fields(request.edit, self._timeout_s(context))
        edit = request.edit
        await self._attached(self._intake.submit_edit(edit.image, fields, edit.mask), report)

    @answers_errors
    async def UploadEdit(
        self, parts: AsyncIterator[pb.UploadEditRequest], context: ServicerContext
    ) -> pb.UploadEditResponse:
        request = await read_upload(parts, self._intake.limits.max_bytes)
        return pb.UploadEditResponse(job=messages.job_message(await self._submit(request)))

    @answers_errors
    async def SubmitEdit(
        self, request: pb.SubmitEditRequest, context: ServicerContext
    ) -> pb.SubmitEditResponse:
        return pb.SubmitEditResponse(job=messages.job_message(await self._submit(request)))

    @answers_errors
    async def GetEdit(
        self, request: pb.GetEditRequest, context: ServicerContext
    ) -> pb.GetEditResponse:
        job = await self._intake.queue.get(request.id)
        has_result = job.status is JobStatus.SUCCEEDED and not job.request.plan_only
        result = await self._result(job) if request.with_result and has_result else None
        return pb.GetEditResponse(job=messages.job_message(job), result=result)

    @answers_errors
    async def WatchEdit(self, request: pb.WatchEditRequest, context: ServicerContext) -> None:
        async def report() -> None:
            after = check_event_id("after", request.after)
            async for event_id, event in self._intake.queue.watch(request.id, after):
                await context.write(messages.event_message(event_id, event))

        await _run(report())

    @answers_errors
    async def CancelEdit(
        self, request: pb.CancelEditRequest, context: ServicerContext
    ) -> pb.CancelEditResponse:
        job = await self._intake.queue.cancel(request.id)
        return pb.CancelEditResponse(job=messages.job_message(job))

    @answers_errors
    async def Plan(self, request: pb.PlanRequest, context: ServicerContext) -> pb.PlanResponse:
        fields = messages.plan_fields(request, self._timeout_s(context))
        submission = self._intake.submit_plan(request.image, fields)
        job = await self._attached(submission, self._intake.finish)
        estimated_s = await self._intake.estimate_s(job, request.image)
        plan = messages.plan_message(job.plan or Plan())
        return pb.PlanResponse(plan=plan, estimated_s=estimated_s)

    @answers_errors
    async def ListPlugins(
        self, request: pb.ListPluginsRequest, context: ServicerContext
    ) -> pb.ListPluginsResponse:
        plugins = (await self._intake.plugins()).values()
        return pb.ListPluginsResponse(plugins=map(messages.plugin_message, plugins))

    async def _submit(self, request: pb.SubmitEditRequest) -> Job:
        timeout_s = request.timeout_s if request.HasField("timeout_s") else None
        fields = messages.edit_fields(request.edit, timeout_s)
        return await self._intake.submit_edit(request.edit.image, fields, request.edit.mask)

    def _timeout_s(self, context: ServicerContext) -> float | None:
        """What is left of the call's deadline; None if it has none."""
        left_s: float | None = context.time_remaining()
        return None if left_s is None else min(self._max_timeout_s, max(0.001, left_s))

    async def _result(self, job: Job) -> pb.EditResponse:
        """The result of a job, once it has ended."""
        ended = await self._intake.finish(job)
        image, media_type = await self._intake.result_of(ended)
        return messages.edit_message(ended, image, media_type)

    async def _updates(self, job: Job) -> AsyncIterator[pb.EditStreamResponse]:
        """Its plan, once, and its progress, until it ends; raises what it ended with."""
        plan = None
        async for _, event in self._intake.queue.watch(job.id):
            if event.plan is not None and event.plan != plan:
                plan = event.plan
                yield pb.EditStreamResponse(plan=messages.plan_message(plan))
            if event.kind == "progress":
                yield pb.EditStreamResponse(progress=messages.progress_message(event.progress))
            if event.preview is not None:
                yield pb.EditStreamResponse(preview=messages.preview_message(event.preview))
        raise_for(await self._intake.queue.get(job.id))

    async def _attached(self, submission: Coroutine[Any, Any, Job], follow: Follow[T]) -> T:
        """What `follow` makes of the submitted job; the job is canceled if the call ends first."""
        submitted = asyncio.create_task(submission)
        try:
            await asyncio.wait({submitted})
            return await _run(follow(submitted.result()))
        except asyncio.CancelledError:
            with suppress(DiffPluginError):
                await self._intake.queue.cancel((await submitted).id)
            raise


async def _run(work: Coroutine[Any, Any, T]) -> T:
    """Its result. A task of its own: redis-py on Python 3.11 may swallow a call's cancellation."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task})
        return task.result()
    finally:
        task.cancel()
