"""The api as a process: it starts, answers, and ends in order."""

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

RUN = "import asyncio; from service.api.app import run_api; from service.settings import Settings; "


@pytest.fixture
def api(redis_url: str, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"DIFFPLUGIN_REDIS_URL": redis_url, "DIFFPLUGIN_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-c", RUN + "asyncio.run(run_api(Settings()))"],
        env={**os.environ, **variables},
    )
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def wait_until_live(url: str) -> None:
    give_up_at = time.monotonic() + 20
    with httpx.Client(trust_env=False) as client:
        while True:
            try:
                assert client.get(f"{url}/livez").status_code == 200
                return
            except httpx.TransportError:
                assert time.monotonic() < give_up_at, "the api did not start"
                time.sleep(0.02)


def test_sigterm_ends_the_api_with_code_0(api: tuple[subprocess.Popen[bytes], str]) -> None:
    process, url = api
    wait_until_live(url)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0
