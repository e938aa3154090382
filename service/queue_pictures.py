"""Pictures of jobs as files of a folder in memory, where the roles share a machine; else in Redis.

Under a picture's key Redis then keeps no more than the name of its file. The key is the truth: a
file whose key is gone, or names another, belongs to nobody and is swept.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import quote

from redis.asyncio import Redis

from service.errors import QueueUnavailable
from service.queue_streams import outages_named

log = logging.getLogger(__name__)

T = TypeVar("T")

MARK = b"picture file\0"  # no image file starts with it
SMALL_BYTES = 2**22  # more would hold up the event loop: a copy of 4 MiB takes a millisecond
SWEEP_S = 15.0
MIN_AGE_S = 60.0  # by then whoever wrote a file has told Redis, or never will
MEMORY = Path("/dev/shm")
FOLDER = "diffplugin-pictures-"


class Queue(Protocol):
    """What sweeping asks of service.queue_connection.QueueConnection."""

    redis: Redis
    pictures: "Pictures"

    def key(self, *parts: str) -> str: ...


class Pictures:
    """`kept` is what Redis has of a picture: the mark and a file's name, or the picture itself."""

    def __init__(self, folder: Path | None, prefix: str) -> None:
        self._folder = None if folder is None else folder / quote(prefix, safe="")

    async def keep(self, kind: str, job_id: str, picture: bytes) -> bytes:
        """A new file's name, to be told to Redis; the picture if there is no room for a file."""
        if self._folder is None or not picture:
            return picture
        path = self._folder / f"{kind}.{job_id}.{secrets.token_hex(8)}"
        try:
            await _in_time(len(picture), lambda: _write(path, picture))
        except OSError as error:
            log.warning("a picture goes through Redis: %s", error)
            return picture
        return MARK + path.name.encode()

    async def read(self, kept: bytes) -> bytes | None:
        """The picture; None if its file is gone."""
        if not kept.startswith(MARK):
            return kept
        try:
            path = self._path(kept)
            return await _in_time(path.stat().st_size, path.read_bytes)
        except OSError as error:
            log.error("the file of a picture is gone: %s", error)
            return None

    def drop(self, kept: bytes) -> None:
        """Remove the file, if there is one; Redis has forgotten it or never heard of it."""
        if kept.startswith(MARK):
            with contextlib.suppress(OSError):
                self._path(kept).unlink()

    async def sweep(self, redis: Redis, key_of: Callable[..., str]) -> int:
        """Remove the files that are nobody's; how many that were."""
        num_swept = 0
        for path in await asyncio.to_thread(lambda: list(self._old_files())):
            kind, job_id, _ = path.name.split(".")
            kept = MARK + path.name.encode()
            with outages_named():
                told = await redis.getrange(key_of(kind, job_id), 0, len(kept))
            if told != kept:
                num_swept += 1
                self.drop(kept)
        return num_swept

    def _old_files(self) -> Iterator[Path]:
        if self._folder is None or not self._folder.is_dir():
            return
        newest = time.time() - MIN_AGE_S
        for entry in os.scandir(self._folder):
            with contextlib.suppress(FileNotFoundError):
                if entry.stat().st_mtime < newest:
                    yield Path(entry.path)

    def _path(self, kept: bytes) -> Path:
        if self._folder is None:
            raise FileNotFoundError(
                "set DIFFPLUGIN_PICTURES_FOLDER here as it is set where the picture came from"
            )
        return self._folder / kept.removeprefix(MARK).decode()


@contextlib.contextmanager
def folder_in_memory() -> Iterator[Path | None]:
    """A folder for this process and its children; None if there is no place for it.

    What processes have left that were killed is removed.
    """
    if not os.access(MEMORY, os.W_OK):
        yield None
        return
    for left in MEMORY.glob(f"{FOLDER}*"):
        if not Path("/proc", left.name.removeprefix(FOLDER)).exists():
            shutil.rmtree(left, ignore_errors=True)
    folder = MEMORY / f"{FOLDER}{os.getpid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def sweeping(queue: "Queue") -> AsyncIterator[None]:
    """Inside it, the files that are nobody's are removed now and then."""
    stop = asyncio.Event()
    task = asyncio.create_task(_sweep(queue, stop))
    try:
        yield
    finally:
        stop.set()
        await task


async def _sweep(queue: "Queue", stop: asyncio.Event) -> None:
    while not stop.is_set():
        try:
            await queue.pictures.sweep(queue.redis, queue.key)
        except (QueueUnavailable, OSError) as error:
            log.warning("pictures that are nobody's stay for now: %s", error)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), SWEEP_S)


def _write(path: Path, picture: bytes) -> None:
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with open(file, "wb", buffering=0) as target:
            left = memoryview(picture)
            while left:
                left = left[target.write(left) :]
    except OSError:  # the folder is full
        path.unlink()
        raise


async def _in_time(num_bytes: int, work: Callable[[], T]) -> T:
    """Small files at once: a thread would cost more than their copy."""
    return work() if num_bytes <= SMALL_BYTES else await asyncio.to_thread(work)
