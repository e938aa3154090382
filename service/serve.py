"""`diffplugin serve`: every role on one machine, each a child process, and a Redis if none is set.

It starts, watches and stops the roles; what they do it does not know. A role that ends by itself is
not started again: the others are stopped, and whoever runs `serve` decides.
"""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping
from contextlib import ExitStack

from service.api.guard import check_exposure
from service.api.tls import check_tls
from service.errors import QueueUnavailable
from service.job_queue import JobQueue, QueueSettings
from service.queue_pictures import folder_in_memory
from service.redis_server import PrivateRedis
from service.settings import Settings

ROLES = ("api", "selector", "worker")
READY_POLL_S = 0.1
KILL_AFTER_S = 5.0  # on top of the roles' own grace


def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT (returns 0) or until a role ends by itself (returns 1).

    A second signal kills the roles.
    """
    return asyncio.run(_serve(settings))


def environment(settings: Settings, role: str) -> dict[str, str]:
    """The variables that hand `settings` to the child of that role."""
    values = settings.model_dump(mode="json")
    if role == "selector":
        # Its models are small; the cores belong to the worker.
        values["num_threads"] = 1
    variables = {
        f"DIFFPLUGIN_{name.upper()}": str(value)
        for name, value in values.items()
        if value is not None
    }
    # Bars of loading weights do not belong into the roles' logs.
    return {**variables, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


async def _serve(settings: Settings) -> int:
    check_exposure(settings)
    check_tls(settings)
    stop = asyncio.Event()
    children: dict[str, Process] = {}

    def handle() -> None:
        if stop.is_set():
            _kill(children)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, handle)
    with ExitStack() as stack:
        url = settings.redis_url or stack.enter_context(PrivateRedis()).url
        folder = settings.pictures_folder
        if folder is None and not settings.redis_url:  # nobody else is to see the pictures
            folder = stack.enter_context(folder_in_memory())
        shared = settings.model_copy(update={"redis_url": url, "pictures_folder": folder})
        print(f"redis on {url}", flush=True)
        try:
            for role in ROLES:
                children[role] = await _start(role, environment(shared, role))
            return await _watch(children, stop, shared)
        finally:
            await _stop(children, settings.shutdown_grace_s + KILL_AFTER_S)


async def _start(role: str, variables: Mapping[str, str]) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "service.cli",
        role,
        env={**os.environ, **variables},
        stdin=asyncio.subprocess.DEVNULL,
    )


async def _watch(children: Mapping[str, Process], stop: asyncio.Event, settings: Settings) -> int:
    """Wait for the stop signal or the first child that ends, and say when the service is ready."""
    ends = [asyncio.create_task(child.wait(), name=role) for role, child in children.items()]
    stopped = asyncio.create_task(stop.wait())
    done = asyncio.Event()
    ready = asyncio.create_task(_announce(settings, done))
    try:
        await asyncio.wait([*ends, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        done.set()
        stopped.cancel()
        await ready
    if stop.is_set():
        print("stopping: running jobs may end", flush=True)
        return 0
    for end in ends:
        if end.done():
            print(f"{end.get_name()} ended with code {end.result()}; stopping", file=sys.stderr)
    return 1


async def _announce(settings: Settings, done: asyncio.Event) -> None:
    """Print one line when the api, a selector and a worker are there; at most until `done`.

    It asks the queue and the port, not /readyz, which may want a certificate.
    """
    queue = JobQueue.connect(settings.redis_url, QueueSettings.from_settings(settings))
    try:
        while not done.is_set():
            if await _is_ready(queue, settings):
                print(f"ready on {_local_url(settings)}", flush=True)
                return
            await asyncio.sleep(READY_POLL_S)
    finally:
        await queue.close()


async def _is_ready(queue: JobQueue, settings: Settings) -> bool:
    try:
        roles = {info.role for info in await queue.workers()}
        _, writer = await asyncio.open_connection(_local_host(settings), settings.port)
    except (QueueUnavailable, OSError):
        return False
    writer.close()
    return roles == {"worker", "selector"}


async def _stop(children: Mapping[str, Process], timeout_s: float) -> None:
    """SIGTERM to all at once, then SIGKILL to those still there after `timeout_s`."""
    running = [child for child in children.values() if child.returncode is None]
    for child in running:
        child.terminate()
    waits = [asyncio.create_task(child.wait()) for child in running]
    if not waits:
        return
    _, late = await asyncio.wait(waits, timeout=timeout_s)
    if late:
        _kill(children)
        await asyncio.wait(late)


def _kill(children: Mapping[str, Process]) -> None:
    for child in children.values():
        if child.returncode is None:
            child.kill()


def _local_url(settings: Settings) -> str:
    scheme = "http" if settings.tls_cert is None else "https"
    return f"{scheme}://{_local_host(settings)}:{settings.port}"


def _local_host(settings: Settings) -> str:
    return "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
