"""The api over a real Redis, with coroutines in place of the selector and the worker. No torch.

They understand sentences of plugin names; `hold` keeps a job running, `break` fails it.
"""

import asyncio
import base64
import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI
from PIL import Image

from service.api.app import create_app, with_early_door
from service.api.intake import Intake
from service.image_preview import preview_of
from service.images import ImageLimits, Output, read_mask, read_photo, write_photo
from service.job_queue import JobQueue
from service.jobs import Job, JobError, Plan, PlannedTask, Preview, Progress, Timings, WorkerInfo
from service.queue_records import Claim, Stage
from service.settings import Settings

PLUGINS = ("derain", "lowlight")
LIMITS = ImageLimits(max_bytes=2**20, max_pixels=10**6, min_side=1)


@dataclass
class Stack:
    """`client` calls the app without sockets."""

    app: FastAPI
    settings: Settings
    client: httpx.AsyncClient

    @property
    def intake(self) -> Intake:
        intake: Intake = self.app.state.intake
        return intake

    @property
    def queue(self) -> JobQueue:
        return self.intake.queue

    async def edit(self, image: bytes | None = None, **fields: Any) -> httpx.Response:
        """POST /v1/edit; `headers` and `path` are taken out of the fields."""
        headers = fields.pop("headers", None)
        path = fields.pop("path", "/v1/edit")
        files = {"image": ("photo.png", photo() if image is None else image)}
        return await self.client.post(path, data=fields, files=files, headers=headers)


@asynccontextmanager
async def serving(
    redis_url: str,
    store: Path,
    roles: Sequence[str] = ("selector", "worker"),
    **settings: Any,
) -> AsyncIterator[Stack]:
    """An app with queue keys and a plugins_store of its own."""
    if settings.setdefault("plugins_store", store) == store:
        write_manifests(store)
    settings.setdefault("heartbeat_s", 60.0)  # the fake roles report once
    settings.setdefault("key_prefix", f"test-{uuid.uuid4().hex[:8]}")
    checked = Settings(redis_url=redis_url, grpc_port=0, **settings)
    app = create_app(checked)
    async with AsyncExitStack() as exits:
        await exits.enter_async_context(app.router.lifespan_context(app))
        transport = httpx.ASGITransport(with_early_door(app))
        client = httpx.AsyncClient(transport=transport, base_url="http://test")
        stack = Stack(app, checked, await exits.enter_async_context(client))
        for role in roles:
            await exits.enter_async_context(running_role(stack.queue, role))
        yield stack


@asynccontextmanager
async def running_role(
    queue: JobQueue, role: str, work: "Work | None" = None
) -> AsyncIterator[None]:
    """A heartbeat and a loop that claims and ends jobs, by `work` or as this module does it."""
    stage = Stage.PLAN if role == "selector" else Stage.RUN
    work = work or (select if role == "selector" else restore)
    name = f"fake-{role}"
    await queue.heartbeat(WorkerInfo.model_validate({"name": name, "role": role}))
    # Not ended by cancel(): on Python 3.11 redis-py's use of wait_for may swallow it.
    stop = asyncio.Event()
    loop = asyncio.create_task(_claim_until(stop, queue, name, stage, work))
    try:
        yield
    finally:
        stop.set()
        await loop


Work = Callable[[JobQueue, Claim], Coroutine[Any, Any, object]]


async def _claim_until(
    stop: asyncio.Event, queue: JobQueue, name: str, stage: Stage, work: Work
) -> None:
    while not stop.is_set():
        for claim in await queue.claim(stage, name, count=4, block_s=0.02):
            await work(queue, claim)


async def select(queue: JobQueue, claim: Claim) -> None:
    request = claim.job.request
    scores = {name: 0.9 if name in request.instruction else 0.05 for name in PLUGINS}
    chosen = [name for name in request.instruction.split() if name in PLUGINS]
    tasks = tuple(PlannedTask(plugin=name, score=0.9) for name in chosen)
    plan = Plan(tasks=tasks, scores=scores, threshold=0.5)
    timings = Timings(plan_s=0.001)
    if request.plan_only:
        await queue.complete(claim, b"", "", timings, plan=plan)
    elif not chosen:
        await queue.complete(claim, claim.image, "image/png", timings, no_op=True, plan=plan)
    else:
        await queue.planned(claim, plan, plan_s=0.001)


async def restore(queue: JobQueue, claim: Claim) -> None:
    request = claim.job.request
    if "hold" in request.instruction:
        return
    if "break" in request.instruction:
        await queue.fail(claim, JobError(code="edit_failed", detail="the engine broke"))
        return
    if claim.job.plan is None or not claim.job.plan.runnable:
        await queue.complete(claim, claim.image, "image/png", Timings(), no_op=True)
        return
    photo = read_photo(claim.image, LIMITS)
    for number in range(1, request.previews + 1):
        progress = Progress(plugin="derain", task=1, num_tasks=1, step=number, num_steps=4)
        file = preview_of(photo, 1 - photo.unchanged, request.strength)
        picture = base64.b64encode(file).decode()
        shown = Preview(number=number, media_type="image/jpeg", base64=picture)
        assert await queue.show(claim, progress, shown)
    mask = read_mask(claim.mask, LIMITS, photo.shape)
    result = write_photo(photo, 1 - photo.unchanged, Output.of(request), (), mask)
    timings = Timings(denoise_s=0.25)
    versions = dict.fromkeys(claim.job.plan.runnable, "1.0.0")
    media_type = f"image/{request.output_format}"
    await queue.complete(claim, result, media_type, timings, versions=versions)


@asynccontextmanager
async def listening(app: FastAPI) -> AsyncIterator[str]:
    """URL of the app behind a real server; its lifespan must be running already."""
    config = uvicorn.Config(app, port=0, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(5):
        while not server.started:
            await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = server.force_exit = True
        await task


async def until(queue: JobQueue, job_id: str, has_come: Callable[[Job], bool]) -> Job:
    """The job once `has_come` holds for it."""
    async with asyncio.timeout(5):
        while not has_come(job := await queue.get(job_id)):
            await asyncio.sleep(0.01)
    return job


def write_manifests(store: Path) -> None:
    for name in PLUGINS:
        folder = store / "nano" / "plugins" / name
        folder.mkdir(parents=True)
        manifest = {
            "name": name,
            "title": f"Do {name}",
            "version": "1.0.0",
            "base": "nano",
            "example_instructions": [f"please {name}"],
            "licence": "Apache-2.0",
            "digest": f"sha256:{hashlib.sha256(name.encode()).hexdigest()}",
        }
        (folder / "manifest.json").write_text(json.dumps(manifest))


def photo(width: int = 48, height: int = 32) -> bytes:
    """PNG of noise: half of it is not a picture."""
    pixels = np.random.default_rng(3).integers(0, 255, (height, width, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
