import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.serve import environment
from service.settings import Settings
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin
from tests.tiny_selector import write_tiny_selector

START_TIMEOUT_S = 240.0


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Served:
    """`diffplugin serve` in a process group of its own."""

    def __init__(self, port: int, log: Path, store: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        variables = {
            "DIFFPLUGIN_PORT": str(port),
            "DIFFPLUGIN_GRPC_PORT": "0",
            "DIFFPLUGIN_NUM_THREADS": "1",
            "DIFFPLUGIN_PLUGINS_STORE": str(store),
            "DIFFPLUGIN_BASE": BASE,
        }
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "serve"],
                env={**os.environ, **variables},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for(self, path: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        with httpx.Client(trust_env=False, base_url=self.url) as client:
            while time.monotonic() < deadline and self.process.poll() is None:
                try:
                    if client.get(path).status_code == httpx.codes.OK:
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.05)
        pytest.fail(f"{path} was never ok:\n{self.log.read_text()}")

    def wait_for_line(self, line: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while line not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def has_processes(self) -> bool:
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True


@pytest.fixture
def served(free_port: int, tmp_path: Path) -> Iterator[Served]:
    store = tmp_path / "store"
    write_tiny_base(store)
    write_tiny_plugin(store, "derain", seed=1)
    write_tiny_selector(store, BASE, ("derain",), threshold=-2.0)
    served = Served(free_port, tmp_path / "serve.log", store)
    yield served
    if served.has_processes():
        os.killpg(served.process.pid, signal.SIGKILL)
    served.process.wait(10)


def test_children_get_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(redis_url="unix:///tmp/a.sock", lease_s=3.5, num_threads=4, base="other")
    for name, value in environment(settings, "worker").items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_the_selector_gets_one_thread() -> None:
    assert environment(Settings(num_threads=4), "selector")["DIFFPLUGIN_NUM_THREADS"] == "1"


@pytest.mark.slow
def test_serve_answers_and_stops_on_sigterm_with_all_its_children(served: Served) -> None:
    served.wait_for("/livez")
    served.wait_for("/readyz")
    served.wait_for_line(f"ready on {served.url}\n")
    served.process.terminate()
    assert served.process.wait(20) == 0
    assert not served.has_processes()


@pytest.mark.slow
def test_a_role_that_ends_stops_the_others(served: Served) -> None:
    served.wait_for("/livez")
    pids = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text()
    roles = {Path(f"/proc/{pid}/cmdline").read_text().split("\0")[-2]: pid for pid in pids.split()}
    os.kill(int(roles["selector"]), signal.SIGKILL)
    assert served.process.wait(20) == 1
    assert "selector ended with code -9" in served.log.read_text()
    assert not served.has_processes()
