"""The api as a process: it starts, answers, and ends in order."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

RUN = "import asyncio; from service.api.app import run_api; from service.settings import Settings; "


@pytest.fixture
def api(redis_url: str) -> Iterator[tuple[subprocess.Popen[bytes], str, str]]:
    variables = {
        "DIFFPLUGIN_REDIS_URL": redis_url,
        "DIFFPLUGIN_PORT": str(port := free_port()),
        "DIFFPLUGIN_GRPC_PORT": str(grpc_port := free_port()),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", RUN + "asyncio.run(run_api(Settings()))"],
        env={**os.environ, **variables},
    )
    try:
        yield process, f"http://127.0.0.1:{port}", f"127.0.0.1:{grpc_port}"
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


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


def test_sigterm_ends_the_api_with_code_0(api: tuple[subprocess.Popen[bytes], str, str]) -> None:
    process, url, _ = api
    wait_until_live(url)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0


def test_the_api_serves_grpc_too(api: tuple[subprocess.Popen[bytes], str, str]) -> None:
    _, url, address = api
    wait_until_live(url)
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=5
        )
    assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING  # no worker is there
