"""G5: edits per second through HTTP, queue, worker and codecs, against the bare engine.

Both engines take 20 ms for a step of 8 edits and leave the CPU alone meanwhile, as one that waits
for a GPU. The api, the worker and Redis are processes of their own; 16 clients each send their next
edit at once.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import cycle

import httpx
import uvloop

from loadtests.contenders import MAX_BATCH, Contenders
from loadtests.engine_goals import Measure
from loadtests.goals import Result, summary
from loadtests.paced_worker import PLUGIN, PacedEngine
from loadtests.side_by_side import Clock, ratio, side_by_side
from service.client import AsyncClient
from service.engine.edit import Edit
from service.images import encode
from service.queue_pictures import folder_in_memory
from service.redis_server import PrivateRedis
from service.settings import Settings

STEP_S, NUM_STEPS = 0.02, 20
LENGTHS = (17, 23, 20, 18, 22, 19, 21)  # steps of the edits, so that they do not all end at once
NUM_EDITS = 192
NUM_CLIENTS = 2 * MAX_BATCH  # so that the next edits wait while the batch runs
READY_TIMEOUT_S = 120.0


def through_service(contenders: Contenders, clock: Clock, rounds: int) -> list[Result]:
    """G5; no network runs, so it is the same for every base but for the size of its photos."""
    edits = [
        Edit(edit.id, edit.pixels, (PLUGIN,), steps)
        for edit, steps in zip(contenders.edits(NUM_EDITS, 1), cycle(LENGTHS), strict=False)
    ]
    with _service() as url:
        seconds = side_by_side(
            Clock(is_cpu=False),
            {
                "bare engine": lambda: _run_bare(edits),
                "service": lambda: uvloop.run(_send(url, edits)),
            },
            rounds,
        )
    detail = summary(seconds) | {"num_edits": NUM_EDITS, "clients": NUM_CLIENTS}
    detail |= {"side": contenders.base.side, "step_ms": 1e3 * STEP_S, "steps": NUM_STEPS}
    return [Result("G5", ratio(seconds, "bare engine", "service"), detail)]


def _run_bare(edits: list[Edit]) -> None:
    """The engine kept full, nothing around it."""
    engine = PacedEngine(STEP_S, NUM_STEPS, MAX_BATCH)
    for edit in reversed(edits):
        engine.add(edit)  # it runs the first MAX_BATCH of them
    while engine.has_work:
        engine.step()


async def _send(url: str, edits: list[Edit]) -> None:
    """All edits, at most NUM_CLIENTS at a time."""
    waiting = list(edits)
    files = {edit.id: encode(edit.pixels, "png") for edit in edits[:8]}

    async def one_client() -> None:
        async with AsyncClient(url, transport=httpx.AsyncHTTPTransport(verify=False)) as client:
            while waiting:
                edit = waiting.pop()
                photo = files[str(int(edit.id) % 8)]
                await client.edit(photo, plugins=edit.plugins, steps=edit.steps, seed=edit.seed)

    await asyncio.gather(*(one_client() for _ in range(NUM_CLIENTS)))


@contextlib.contextmanager
def _service() -> Iterator[str]:
    """Url of an api with a paced worker behind it."""
    with PrivateRedis() as redis, folder_in_memory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        settings = Settings(redis_url=redis.url, pictures_folder=folder, port=port, grpc_port=0)
        pace = (str(STEP_S), str(NUM_STEPS), str(MAX_BATCH))
        with (
            _process(settings, "loadtests.paced_worker", *pace),
            _process(settings, "service.cli", "api"),
        ):
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(url)
            yield url


@contextlib.contextmanager
def _process(settings: Settings, module: str, *arguments: str) -> Iterator[None]:
    values = {
        f"DIFFPLUGIN_{name.upper()}": str(getattr(settings, name))
        for name in ("redis_url", "pictures_folder", "port", "grpc_port")
    }
    command = [sys.executable, "-m", module, *arguments]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env=os.environ | values, stdout=quiet, stderr=quiet)
    try:
        yield
    finally:
        process.terminate()
        process.wait(READY_TIMEOUT_S)


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    with httpx.Client(trust_env=False, timeout=2.0) as client:
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                # Not ready as a whole: there is no selector, which these edits do not need.
                if client.get(f"{url}/readyz").json()["workers"] > 0:
                    return
            time.sleep(0.2)
    raise TimeoutError(f"{url} was not ready within {READY_TIMEOUT_S:g} s")


MEASURES: dict[tuple[str, ...], Measure] = {("G5",): through_service}
