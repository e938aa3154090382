"""Pictures of jobs as files: read by whoever has the claim, gone with their keys."""

import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from service import errors
from service.job_queue import JobQueue, QueueSettings, Stage
from service.queue_pictures import FOLDER, MEMORY, MIN_AGE_S, folder_in_memory
from tests.queue_jobs import claim_one, complete, submit

RESULT = b"result" * 1000


@pytest.fixture
async def filed(
    redis_url: str, queue_settings: QueueSettings, tmp_path: Path
) -> AsyncIterator[JobQueue]:
    """A queue whose pictures are files below tmp_path."""
    settings = replace(queue_settings, lease_s=20.0, pictures_folder=tmp_path / "pictures")
    queue = JobQueue.connect(redis_url, settings)
    yield queue
    await queue.close()


def files(tmp_path: Path) -> list[str]:
    """Kind and job of each picture's file."""
    return sorted(p.name.rpartition(".")[0] for p in tmp_path.glob("pictures/test/*"))


def grow_old(tmp_path: Path) -> None:
    for path in tmp_path.glob("pictures/test/*"):
        os.utime(path, times=(0, time.time() - 2 * MIN_AGE_S))


async def test_a_picture_crosses_as_a_file_and_goes_with_its_job(
    filed: JobQueue, tmp_path: Path
) -> None:
    job_id = await submit(filed)
    assert files(tmp_path) == [f"input.{job_id}"]
    assert await filed.redis.strlen(f"test:input:{job_id}") < 100
    claim = await claim_one(filed)
    assert claim.image == await filed.input_of(job_id)
    assert await complete(filed, claim, RESULT)
    assert files(tmp_path) == [f"result.{job_id}"]
    assert await filed.redis.strlen(f"test:result:{job_id}") < 100
    assert await filed.result_of(job_id) == RESULT


async def test_without_room_for_files_pictures_go_through_redis(
    redis_url: str, queue_settings: QueueSettings, tmp_path: Path
) -> None:
    (tmp_path / "pictures").write_text("not a folder")
    settings = replace(queue_settings, pictures_folder=tmp_path / "pictures")
    queue = JobQueue.connect(redis_url, settings)
    job_id = await submit(queue)
    assert await complete(queue, await claim_one(queue), RESULT)
    assert await queue.redis.get(f"test:result:{job_id}") == RESULT
    assert await queue.result_of(job_id) == RESULT
    await queue.close()


async def test_only_what_is_nobodys_is_swept(filed: JobQueue, tmp_path: Path) -> None:
    kept, canceled, young = [await submit(filed) for _ in range(3)]
    await filed.cancel(canceled)
    lost = await filed.pictures.keep("input", kept, b"of a submission that broke off")
    grow_old(tmp_path)
    await filed.cancel(young)
    late = await filed.pictures.keep("result", young, b"its key is about to be written")
    assert await filed.pictures.sweep(filed.redis, filed.key) == 3
    assert files(tmp_path) == [f"input.{kept}", f"result.{young}"]
    assert await filed.pictures.read(lost) is None
    assert await filed.pictures.read(late) is not None
    assert (await claim_one(filed)).job.id == kept


async def test_a_refused_job_leaves_no_file(filed: JobQueue, tmp_path: Path) -> None:
    ids = [await submit(filed) for _ in range(filed.settings.max_depth)]
    with pytest.raises(errors.Overloaded):
        await submit(filed)
    assert files(tmp_path) == sorted(f"input.{job_id}" for job_id in ids)


async def test_bytes_in_files_count_towards_the_limit(filed: JobQueue) -> None:
    small = replace(filed.settings, max_bytes=1)
    queue = JobQueue(filed.redis, small)
    await submit(queue)
    with pytest.raises(errors.Overloaded, match="bytes"):
        await submit(queue)


async def test_a_dead_letter_keeps_its_picture(filed: JobQueue, tmp_path: Path) -> None:
    once = JobQueue(filed.redis, replace(filed.settings, max_deliveries=1, lease_s=0.001))
    job_id = await submit(once)
    await once.claim(Stage.RUN, "lost", 1, 1.0)
    while not await once.redis.xlen("test:dead"):
        assert not await once.claim(Stage.RUN, "next", 1)
    grow_old(tmp_path)
    assert await once.pictures.sweep(once.redis, once.key) == 0
    assert files(tmp_path) == [f"input.{job_id}"]


def test_a_folder_ends_with_its_process_and_a_killed_ones_with_the_next() -> None:
    run = "import os; from service.queue_pictures import folder_in_memory; "
    run += "folder = folder_in_memory(); folder.__enter__(); os.kill(os.getpid(), 9)"
    killed = subprocess.Popen([sys.executable, "-c", run])
    killed.wait()
    assert (MEMORY / f"{FOLDER}{killed.pid}").exists()
    with folder_in_memory() as folder:
        assert folder is not None and folder.stat().st_mode & 0o777 == 0o700
        assert not (MEMORY / f"{FOLDER}{killed.pid}").exists()
    assert not folder.exists()
