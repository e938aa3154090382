"""Every wire in front of a real worker and a real engine: one result, previews, deadlines."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import openai
import pytest
import torch

from service.client import AsyncClient
from service.engine.engine import Engine, build_engine
from service.jobs import JobStatus
from service.pb.diffplugin.v1 import edit_pb2 as pb
from service.worker import Worker, WorkerSettings
from tests.api_stack import LIMITS, Stack, listening, photo
from tests.grpc_stack import serving_both, stub_of
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin


@dataclass
class Whole:
    stack: Stack
    stub: Any
    url: str
    engine: Engine
    added: list[str]  # ids of the edits that the engine was given


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    write_tiny_base(folder)
    write_tiny_plugin(folder, "derain", seed=1)
    return folder


@pytest.fixture
async def whole(redis_url: str, store: Path, tmp_path: Path) -> AsyncIterator[Whole]:
    engine = build_engine(store, BASE, "cpu", max_batch_size=4, num_threads=1)
    settings: dict[str, Any] = {"plugins_store": store, "base": BASE, "max_steps": 1000}
    async with serving_both(redis_url, tmp_path, roles=(), **settings) as (stack, channel):
        added = noting_edits(engine)
        async with listening(stack.app) as url, working(stack, engine):
            yield Whole(stack, stub_of(channel), url, engine, added)
    torch.set_num_threads(1)


def noting_edits(engine: Engine) -> list[str]:
    added: list[str] = []
    add: Callable[[Any], None] = engine.add

    def add_and_note(edit: Any) -> None:
        added.append(edit.id)
        add(edit)

    engine.add = add_and_note  # type: ignore[method-assign]
    return added


@asynccontextmanager
async def working(stack: Stack, engine: Engine) -> AsyncIterator[None]:
    worker = Worker(stack.queue, engine, WorkerSettings("worker", BASE, "cpu", LIMITS))
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(60):
        while not (await stack.intake.live())[0]:
            await asyncio.sleep(0.01)
    try:
        yield
    finally:
        worker.stop()
        await running


async def test_one_seed_gives_the_same_bytes_on_every_wire(whole: Whole) -> None:
    http = await whole.stack.edit(plugins="derain", seed=5)
    assert http.status_code == 200, http.text
    fields = {"image": base64.b64encode(photo()).decode(), "plugins": ["derain"], "seed": 5}
    as_json = await whole.stack.client.post("/v1/edit", json=fields)
    put = await whole.stack.client.put("/v1/edits/mine", json=fields)
    request = pb.EditRequest(image=photo(), plugins=["derain"], seed=5)
    over_grpc = await whole.stub.Edit(request)
    stream = whole.stub.EditStream(pb.EditStreamRequest(edit=request))
    streamed = [update async for update in stream][-1].result
    submit = pb.SubmitEditRequest(edit=pb.EditRequest(plugins=["derain"], seed=5))
    parts = [pb.UploadEditRequest(submit=submit), pb.UploadEditRequest(image=photo())]
    uploaded = (await whole.stub.UploadEdit(iter(parts))).job
    async with AsyncClient(whole.url) as client:
        by_client = await client.edit(photo(), plugins=["derain"], seed=5)
        [_ async for _ in client.watch(uploaded.id)]
        from_upload = await client.result(uploaded.id)
    results = {
        http.content,
        as_json.content,
        put.content,
        over_grpc.image,
        streamed.image,
        by_client.image,
        from_upload.image,
    }
    assert len(results) == 1
    other = await whole.stack.edit(plugins="derain", seed=6)
    assert other.content != http.content


async def test_openai_streams_what_the_engine_has_on_the_way(whole: Whole) -> None:
    async with openai.DefaultAsyncHttpxClient(trust_env=False) as http:
        client = openai.AsyncOpenAI(base_url=f"{whole.url}/v1", api_key="unused", http_client=http)
        stream = await client.images.edit(
            image=("a.png", photo()), prompt="x", model="derain", stream=True, partial_images=3
        )
        types = [event.type async for event in stream]
    assert types == 3 * ["image_edit.partial_image"] + ["image_edit.completed"]


async def is_gone(whole: Whole, timeout_s: float = 100.0) -> None:
    async with asyncio.timeout(timeout_s):
        while whole.engine.has_work:
            await asyncio.sleep(0.01)


async def the_job(whole: Whole) -> Any:
    keys = await whole.stack.queue.redis.keys(f"{whole.stack.settings.key_prefix}:job:*")
    jobs = [await whole.stack.queue.get(key.decode().rsplit(":", 1)[-1]) for key in keys]
    return jobs[0] if jobs else None


async def test_a_call_of_50_ms_is_late_and_leaves_nothing_behind(whole: Whole) -> None:
    # 1,000 steps take longer, on any machine.
    request = pb.EditRequest(image=photo(160, 120), plugins=["derain"], steps=1000)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await whole.stub.Edit(request, timeout=0.05)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await is_gone(whole)
    job = await the_job(whole)
    assert job is None or job.status in (JobStatus.EXPIRED, JobStatus.CANCELED)


async def test_a_late_job_leaves_the_engine_in_the_middle_of_its_steps(whole: Whole) -> None:
    request = pb.EditRequest(image=photo(600, 480), plugins=["derain"], steps=1000)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await whole.stub.Edit(request, timeout=4.0)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(whole.added) == 1
    await is_gone(whole)
    job = await the_job(whole)
    assert job.progress is None or job.progress.step < 1000  # none was told if it was late early
    assert job.status in (JobStatus.EXPIRED, JobStatus.CANCELED)


async def test_the_selector_is_not_needed_for_named_plugins(whole: Whole) -> None:
    answer = await whole.stack.edit(instruction="derain")
    assert (answer.status_code, answer.json()["code"]) == (503, "no_worker")
