"""EditService over real gRPC: results, streams, jobs, deadlines, cancellation."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image

from service.images import decode
from service.jobs import Job, JobStatus, Progress
from service.pb.diffplugin.v1 import edit_pb2 as pb
from service.queue_records import Claim, Stage
from service.queue_streams import GROUP
from tests.api_stack import LIMITS, Stack, photo, until
from tests.grpc_stack import details_of, serving_both, stub_of
from tests.test_images import file_of


@pytest.fixture
async def both(redis_url: str, tmp_path: Path) -> AsyncIterator[tuple[Stack, Any]]:
    async with serving_both(redis_url, tmp_path) as (stack, channel):
        yield stack, stub_of(channel)


def edit_request(instruction: str = "derain lowlight", **fields: Any) -> pb.EditRequest:
    return pb.EditRequest(image=photo(), instruction=instruction, **fields)


async def only_job(stack: Stack) -> Job:
    """The one job of this test, once it is there."""
    pattern = f"{stack.settings.key_prefix}:job:*"
    async with asyncio.timeout(5):
        while not (keys := await stack.queue.redis.keys(pattern)):
            await asyncio.sleep(0.01)
    assert len(keys) == 1
    return await stack.queue.get(keys[0].decode().rsplit(":", 1)[-1])


async def test_edit_gives_the_bytes_that_http_gives(both: tuple[Stack, Any]) -> None:
    stack, stub = both
    answer = await stub.Edit(edit_request(seed=7))
    http = await stack.edit(instruction="derain lowlight", seed=7)
    assert answer.image == http.content
    assert (answer.media_type, answer.seed, answer.no_op) == ("image/png", 7, False)
    assert [task.plugin for task in answer.plan.tasks] == ["derain", "lowlight"]
    assert answer.plan.scores["derain"] == 0.9
    assert answer.plan.threshold == 0.5
    assert answer.timings.denoise_s == 0.25
    assert set(answer.versions.values()) == {"1.0.0"}


async def test_fields_of_an_edit_arrive(both: tuple[Stack, Any]) -> None:
    stack, stub = both
    request = pb.EditRequest(image=photo(), plugins=["lowlight"], steps=3)
    request.output_format = pb.OUTPUT_FORMAT_JPEG
    answer = await stub.Edit(request)
    job = await stack.queue.get(answer.id)
    assert answer.media_type == "image/jpeg"
    assert (job.request.plugins, job.request.steps) == (("lowlight",), 3)
    assert not answer.plan.HasField("threshold")


async def test_no_op_sends_the_photo_back(both: tuple[Stack, Any]) -> None:
    answer = await both[1].Edit(edit_request("make me a sandwich"))
    assert answer.no_op
    assert answer.image == photo()


async def test_stream_tells_id_plan_and_progress_then_the_result(both: tuple[Stack, Any]) -> None:
    stack, stub = both
    call = stub.EditStream(pb.EditStreamRequest(edit=edit_request("derain hold")))
    job = await until(stack.queue, (await only_job(stack)).id, lambda job: bool(job.plan))
    # `hold` leaves the claim to its fake worker for good; the test does its work.
    await until(stack.queue, job.id, lambda job: job.status is JobStatus.RUNNING)
    claim = await held_claim(stack, job.id)
    progress = Progress(plugin="derain", task=1, num_tasks=1, step=2, num_steps=4)
    assert await stack.queue.report(claim, progress)
    assert await stack.queue.complete(claim, b"the result", "image/png", job.timings)
    updates = [update async for update in call]
    kinds = [update.WhichOneof("update") for update in updates]
    assert kinds == ["id", "plan", "progress", "result"]
    assert updates[0].id == job.id
    assert (updates[2].progress.step, updates[2].progress.num_steps) == (2, 4)
    assert updates[3].result.image == b"the result"


async def held_claim(stack: Stack, job_id: str) -> Any:
    """The claim of the fake worker on a job that it holds, from the stream's own books."""
    stream = f"{stack.settings.key_prefix}:stream:run:normal"
    entries = await stack.queue.redis.xpending_range(stream, GROUP, "-", "+", 1)
    job = await stack.queue.get(job_id)
    entry = entries[0]
    return Claim(
        entry["message_id"].decode(),
        Stage.RUN,
        entry["consumer"].decode(),
        entry["times_delivered"],
        job,
        photo(),
    )


async def test_a_stream_shows_the_previews_that_were_asked_for(both: tuple[Stack, Any]) -> None:
    request = edit_request("derain", previews=2)
    call = both[1].EditStream(pb.EditStreamRequest(edit=request))
    updates = [update async for update in call]
    previews = [update.preview for update in updates if update.WhichOneof("update") == "preview"]
    assert [preview.number for preview in previews] == [1, 2]
    assert {preview.media_type for preview in previews} == {"image/jpeg"}
    assert decode(previews[0].image, LIMITS).shape == (32, 48, 3)


async def test_every_field_of_http_is_there_over_grpc(both: tuple[Stack, Any]) -> None:
    stack, stub = both
    mask = file_of(Image.new("L", (48, 32), 255), "PNG")
    plan = pb.TaskPlan(tasks=[pb.PlannedTask(plugin="lowlight", installed=True)])
    fields = {"mask": mask, "output_quality": 50, "strength": 0.25, "plan": plan}
    names = {"output_format": pb.OUTPUT_FORMAT_AVIF, "metadata": pb.METADATA_STRIP}
    answer = await stub.Edit(edit_request("", priority=pb.PRIORITY_LOW, **fields, **names))
    job = await stack.queue.get(answer.id)
    asked = job.request
    assert job.plan is not None and job.plan.runnable == ("lowlight",)
    assert (asked.output_format, asked.output_quality, asked.metadata) == ("avif", 50, "strip")
    assert (asked.strength, asked.priority) == (0.25, "low")
    assert answer.media_type == "image/avif"


async def test_an_upload_in_parts_is_the_edit_in_one_message(both: tuple[Stack, Any]) -> None:
    _, stub = both
    mask = file_of(Image.new("L", (48, 32), 255), "PNG")
    submit = pb.SubmitEditRequest(edit=pb.EditRequest(instruction="derain", seed=3))
    parts = [pb.UploadEditRequest(submit=submit)]
    parts += [pb.UploadEditRequest(image=photo()[i : i + 1000]) for i in range(0, 5000, 1000)]
    parts += [pb.UploadEditRequest(mask=mask), pb.UploadEditRequest(image=photo()[5000:])]
    job = (await stub.UploadEdit(iter(parts))).job
    [_ async for _ in stub.WatchEdit(pb.WatchEditRequest(id=job.id))]
    answer = await stub.GetEdit(pb.GetEditRequest(id=job.id, with_result=True))
    whole = await stub.Edit(edit_request("derain", seed=3, mask=mask))
    assert answer.result.image == whole.image


SUBMIT = pb.UploadEditRequest(submit=pb.SubmitEditRequest(edit=pb.EditRequest(instruction="x")))


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([], "INVALID_REQUEST"),
        ([pb.UploadEditRequest(image=photo())], "INVALID_REQUEST"),
        ([SUBMIT, SUBMIT], "INVALID_REQUEST"),
        ([SUBMIT, pb.UploadEditRequest()], "INVALID_REQUEST"),
        ([SUBMIT], "INVALID_IMAGE"),
        ([SUBMIT, *[pb.UploadEditRequest(image=bytes(2**22))] * 33], "IMAGE_TOO_LARGE"),
    ],
    ids=["nothing", "no submit", "two submits", "empty part", "no image", "too large"],
)
async def test_an_upload_that_makes_no_edit_is_refused(
    both: tuple[Stack, Any], parts: list[Any], reason: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await both[1].UploadEdit(iter(parts))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    info: Any = details_of(caught.value)["ErrorInfo"]
    assert info.reason == reason


async def test_submitted_job_is_watched_and_fetched(both: tuple[Stack, Any]) -> None:
    _, stub = both
    request = pb.SubmitEditRequest(edit=edit_request(seed=5), timeout_s=30)
    job = (await stub.SubmitEdit(request)).job
    assert job.deadline_at - job.created_at == pytest.approx(30, abs=1)
    events = [event async for event in stub.WatchEdit(pb.WatchEditRequest(id=job.id))]
    assert events[0].status == pb.JOB_STATUS_QUEUED
    assert events[-1].status == pb.JOB_STATUS_SUCCEEDED
    request = pb.WatchEditRequest(id=job.id, after=events[-2].event_id)
    assert [event async for event in stub.WatchEdit(request)] == events[-1:]
    answer = await stub.GetEdit(pb.GetEditRequest(id=job.id, with_result=True))
    assert answer.job.status == pb.JOB_STATUS_SUCCEEDED
    assert (decode(answer.result.image, LIMITS) == 255 - decode(photo(), LIMITS)).all()
    assert not (await stub.GetEdit(pb.GetEditRequest(id=job.id))).HasField("result")


async def test_failed_job_tells_its_error(both: tuple[Stack, Any]) -> None:
    stack, stub = both
    job = (await stub.SubmitEdit(pb.SubmitEditRequest(edit=edit_request("derain break")))).job
    await until(stack.queue, job.id, lambda job: job.status.is_final)
    answer = await stub.GetEdit(pb.GetEditRequest(id=job.id, with_result=True))
    assert answer.job.status == pb.JOB_STATUS_FAILED
    assert (answer.job.error.code, answer.job.error.detail) == ("edit_failed", "the engine broke")
    assert not answer.HasField("result")


async def test_cancel_ends_a_job(both: tuple[Stack, Any]) -> None:
    _, stub = both
    job = (await stub.SubmitEdit(pb.SubmitEditRequest(edit=edit_request("derain hold")))).job
    answer = await stub.CancelEdit(pb.CancelEditRequest(id=job.id))
    assert answer.job.status == pb.JOB_STATUS_CANCELED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetEdit(pb.GetEditRequest(id="nobody"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("is_stream", [False, True])
async def test_canceled_call_cancels_its_job(both: tuple[Stack, Any], is_stream: bool) -> None:
    stack, stub = both
    request = edit_request("derain hold")
    call = stub.EditStream(pb.EditStreamRequest(edit=request)) if is_stream else stub.Edit(request)
    job = await only_job(stack)
    call.cancel()
    ended = await until(stack.queue, job.id, lambda job: job.status.is_final)
    assert ended.status is JobStatus.CANCELED


async def test_deadline_of_the_call_is_that_of_the_job(both: tuple[Stack, Any]) -> None:
    stack, stub = both
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Edit(edit_request("derain hold"), timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    job = await only_job(stack)
    assert job.deadline_at is not None
    assert job.deadline_at - job.created_at < 0.4
    ended = await until(stack.queue, job.id, lambda job: job.status.is_final)
    assert ended.status in (JobStatus.EXPIRED, JobStatus.CANCELED)


async def test_plan_and_plugins(both: tuple[Stack, Any]) -> None:
    _, stub = both
    plan = (await stub.Plan(pb.PlanRequest(image=photo(), instruction="lowlight"))).plan
    assert [(task.plugin, task.installed) for task in plan.tasks] == [("lowlight", True)]
    plugins = (await stub.ListPlugins(pb.ListPluginsRequest())).plugins
    assert [plugin.name for plugin in plugins] == ["derain", "lowlight"]
    assert plugins[0].example_instructions == ["please derain"]


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"instruction": ""}, "instruction"),
        ({"steps": 0}, "steps"),
        ({"steps": 101}, "steps"),
        ({"seed": 2**32}, "seed"),
        ({"output_format": 9}, "output_format"),
        ({"metadata": 9}, "metadata"),
        ({"priority": 9}, "priority"),
        ({"strength": 1.5}, "strength"),
        ({"previews": 4}, "previews"),
        ({"mask": photo(47, 32)}, "mask"),
        ({"plugins": ["decloud"]}, "plugins"),
        ({"image": b"text"}, "image"),
        ({"image": b""}, "image"),
    ],
)
async def test_bad_request_names_the_field(
    both: tuple[Stack, Any], fields: dict[str, Any], wrong: str
) -> None:
    request = pb.EditRequest(**{"image": photo(), "instruction": "derain", **fields})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await both[1].Edit(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    violations: Any = details_of(caught.value)["BadRequest"]
    assert [violation.field for violation in violations.field_violations] == [wrong]


async def test_event_id_that_is_none_is_refused(both: tuple[Stack, Any]) -> None:
    _, stub = both
    job = (await stub.SubmitEdit(pb.SubmitEditRequest(edit=edit_request()))).job
    call = stub.WatchEdit(pb.WatchEditRequest(id=job.id, after="last tuesday"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [event async for event in call]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_calls_are_counted(both: tuple[Stack, Any]) -> None:
    stack, stub = both
    await stub.ListPlugins(pb.ListPluginsRequest())
    text = (await stack.client.get("/metrics")).text
    assert 'diffplugin_grpc_calls_total{code="OK",method="ListPlugins"} 1.0' in text
