"""Start the whole service as a child process on a free loopback port, and stop it afterwards.

For the demo, the load tests and the tests: they meet the service as a user does, over HTTP.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

STOP_TIMEOUT_S = 40.0  # longer than `serve` gives its roles
POLL_S = 0.1


class ServiceDidNotStart(Exception):
    """The child ended, or was not ready in time; the message has the end of its log."""


@dataclass(frozen=True)
class RunningService:
    """`ready_s`: from the start of the process to the first 200 of /readyz; `pid`: of `serve`."""

    url: str
    ready_s: float
    pid: int = 0


@contextmanager
def running_service(
    log_path: Path, timeout_s: float = 60.0, settings: Mapping[str, str] | None = None
) -> Iterator[RunningService]:
    """Run `diffplugin serve`; `settings` are extra environment variables of the child."""
    port = free_port()
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "serve"],
            env=_environment(port, settings or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us alone, and we stop it in order
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(process, url, log_path, started + timeout_s)
            yield RunningService(url, time.monotonic() - started, process.pid)
        finally:
            _stop(process)


def exit_on_sigterm() -> None:
    """Make SIGTERM unwind like Ctrl-C does, so that a script stops its service before it ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _wait_until_ready(
    process: subprocess.Popen[bytes], url: str, log_path: Path, deadline: float
) -> None:
    # A proxy of the environment must not stand between two ends of the loopback.
    with httpx.Client(trust_env=False, timeout=2.0) as client:
        while not _is_ready(client, url):
            if process.poll() is not None:
                raise ServiceDidNotStart(
                    f"the service ended with code {process.returncode}:\n{_tail(log_path)}"
                )
            if time.monotonic() > deadline:
                raise ServiceDidNotStart(f"the service was not ready in time:\n{_tail(log_path)}")
            time.sleep(POLL_S)


def _is_ready(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/readyz").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then after a while SIGKILL to the whole group, so that no child outlives us."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_TIMEOUT_S)


def _environment(port: int, settings: Mapping[str, str]) -> dict[str, str]:
    # Several services may run at once, and gRPC's port is fixed: it is for those who ask for it.
    return {**os.environ, "DIFFPLUGIN_GRPC_PORT": "0", **settings, "DIFFPLUGIN_PORT": str(port)}


def free_port() -> int:
    """Of the loopback, and free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tail(log_path: Path, num_lines: int = 20) -> str:
    return "\n".join(log_path.read_text(errors="replace").splitlines()[-num_lines:])
