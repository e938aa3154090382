"""Previews of a real engine: how many, what they show, and that they change nothing."""

import base64
import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from service.engine.edit import Edit
from service.engine.engine import Engine, build_engine
from service.engine.updates import EditDone, PreviewDone, StepDone, Update
from service.image_preview import MAX_SIDE, preview_of
from service.images import ImageLimits, Photo, Pixels, encode
from service.job_queue import JobQueue
from service.jobs import EditRequest, Job, Plan, PlannedTask, Preview
from service.worker import Worker, WorkerSettings
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin

LIMITS = ImageLimits(max_bytes=10**6, max_pixels=10**6, min_side=8)
PIXELS: Pixels = np.random.default_rng(1).integers(0, 256, (32, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    write_tiny_base(folder)
    for seed, name in enumerate(("derain", "desnow"), start=1):
        write_tiny_plugin(folder, name, seed)
    return folder


@pytest.fixture(scope="module")
def engine(store: Path) -> Iterator[Engine]:
    yield build_engine(store, BASE, "cpu", max_batch_size=4, num_threads=1)
    torch.set_num_threads(1)


def run(engine: Engine, num_previews: int, steps: int = 4) -> list[Update]:
    plugins = ("derain", "desnow")
    engine.add(Edit("edit", PIXELS, plugins, steps, seed=1, num_previews=num_previews))
    updates: list[Update] = []
    while engine.has_work:
        updates += engine.step()
    return updates


@pytest.mark.parametrize(
    ("num_previews", "steps", "expected"),
    [
        (0, 4, []),
        (1, 4, [(1, 4)]),
        (3, 4, [(1, 2), (1, 4), (2, 2)]),
        (3, 1, [(1, 1)]),  # fewer steps than marks: only what is really on the way
    ],
)
def test_previews_are_spread_over_the_steps_of_all_tasks(
    engine: Engine, num_previews: int, steps: int, expected: list[tuple[int, int]]
) -> None:
    previews = [u for u in run(engine, num_previews, steps) if isinstance(u, PreviewDone)]
    assert [(u.progress.task, u.progress.step) for u in previews] == expected


def test_previews_leave_the_result_as_it_is(engine: Engine) -> None:
    without, with_three = (
        next(u.restored for u in run(engine, n) if isinstance(u, EditDone)) for n in (0, 3)
    )
    np.testing.assert_array_equal(without, with_three)


def test_the_last_step_of_a_task_expects_what_the_task_gives(engine: Engine) -> None:
    """The final sampler step ends at its own clean estimate, up to the last bit of noise."""
    [preview] = [u for u in run(engine, 1) if isinstance(u, PreviewDone)]
    engine.add(Edit("alone", PIXELS, ("derain",), 4, seed=1))
    updates: list[Update] = []
    while engine.has_work:
        updates += engine.step()
    [alone] = [u for u in updates if isinstance(u, EditDone)]
    assert np.abs(preview.expected - alone.restored).mean() < 0.01


def test_pace_counts_every_step(engine: Engine) -> None:
    updates = run(engine, 0)
    [done] = [u for u in updates if isinstance(u, EditDone)]
    assert done.num_steps == len([u for u in updates if isinstance(u, StepDone)]) == 8


async def test_worker_publishes_previews_and_its_pace(queue: JobQueue, engine: Engine) -> None:
    plan = Plan(tasks=(PlannedTask(plugin="derain"),), source="request")
    request = EditRequest(plugins=("derain",), steps=4, previews=3)
    job = Job(request=request, plan=plan, deadline_at=time.time() + 60)
    await queue.submit(job, encode(PIXELS, "png"))
    worker = Worker(queue, engine, WorkerSettings("worker", BASE, "cpu", LIMITS))
    await worker.run(burst=True)
    events = [event async for _, event in queue.watch(job.id)]
    previews = [event.preview for event in events if event.preview is not None]
    assert [preview.number for preview in previews] == [1, 2, 3]
    assert picture_of(previews[0]).size == (48, 32)
    steps = [e.progress.step for e in events if e.kind == "preview" and e.progress is not None]
    assert steps == [1, 2, 3]
    pace = worker._info().step_s_per_mpx
    assert pace is not None and pace > 0


def picture_of(preview: Preview) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(preview.base64)))


def test_preview_is_small_and_shows_strength_and_mask() -> None:
    photo = Photo(np.full((1000, 2000, 3), 100, np.uint8))
    expected = np.full((1000, 2000, 3), 200 / 255, np.float32)
    mask = np.zeros((1000, 2000), np.float32)
    mask[:, 1000:] = 1
    picture = Image.open(io.BytesIO(preview_of(photo, expected, 0.5, mask)))
    assert picture.size == (MAX_SIDE, MAX_SIDE // 2)
    assert picture.getpixel((10, 10)) == (100, 100, 100)
    assert picture.getpixel((500, 10)) == (150, 150, 150)
