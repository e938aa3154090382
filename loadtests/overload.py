"""Many submissions at once against a full queue: how soon do the refused ones know?

    python -m loadtests.overload [--connections 300] [--depth 100]

It starts a Redis, the api and one worker around an engine that only copies; the worker is stopped
while all submit, so that exactly as many are admitted as may wait. Every connection is open before.
It prints its figures as JSON; exit code 1 if a count is not as it must be.
"""

import argparse
import asyncio
import json
import os
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import httpx
import numpy as np

from loadtests.fleet import Fleet
from service.images import encode
from service.launch import free_port
from service.redis_server import PrivateRedis
from service.serve import environment
from service.settings import Settings
from tests.api_stack import write_manifests
from tests.scripted_worker import serve_scripted

READY_TIMEOUT_S = 120.0
ENDS_TIMEOUT_S = 120.0
BOUNDARY = "boundary"


@dataclass(frozen=True)
class Answer:
    """`seconds`: from the first byte sent to the last byte of the answer."""

    status: int
    retry_after: str
    job_id: str
    seconds: float

    @classmethod
    def of(cls, answer: bytes, seconds: float) -> Self:
        head = answer.partition(b"\r\n\r\n")[0]
        headers = headers_of(head)
        status = int(head.split()[1])
        return cls(status, headers.get("retry-after", ""), headers.get("x-job-id", ""), seconds)


@dataclass(frozen=True)
class Report:
    connections: int
    admitted: int
    finished: int
    refused: int
    with_retry_after: int
    refused_p50_ms: float
    refused_p99_ms: float
    refused_max_ms: float


@contextmanager
def running_api(settings: Settings) -> Iterator[str]:
    """URL of an api process that answers."""
    command = [sys.executable, "-m", "service.cli", "api"]
    process = subprocess.Popen(
        command, env={**os.environ, **environment(settings, "api")}, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{settings.port}"
    give_up_at = time.monotonic() + READY_TIMEOUT_S
    try:
        while not _is_live(url):
            assert time.monotonic() < give_up_at, "the api did not start in time"
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def _is_live(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez", trust_env=False).is_success
    except httpx.TransportError:
        return False


def request_bytes(port: int) -> bytes:
    """POST /v1/edit that is answered as soon as the job is queued, with a 64x64 photo of noise."""
    pixels = np.random.default_rng(0).integers(1, 99, (64, 64, 3), dtype=np.uint8)
    parts = [
        ('name="plugins"', b"derain"),
        ('name="image"; filename="a.png"', encode(pixels, "png")),
    ]
    body = b"".join(
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + data + b"\r\n"
        for head, data in parts
    )
    body += f"--{BOUNDARY}--\r\n".encode()
    head = (
        f"POST /v1/edit HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nPrefer: respond-async\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def submit_all(port: int, num: int) -> list[Answer]:
    """All at once, each on a connection of its own.

    Plain sockets: a client that takes long to read would count towards the service's time.
    """
    request = request_bytes(port)
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(num)]
    selector, answers = selectors.DefaultSelector(), []
    for connection in connections:
        selector.register(connection, selectors.EVENT_READ, bytearray())
    sent_at = {}
    for connection in connections:
        sent_at[connection] = time.perf_counter()
        connection.sendall(request)
    while selector.get_map():
        for key, _ in selector.select(ENDS_TIMEOUT_S):
            key.data.extend(connection_of(key).recv(2**16))
            if is_whole(key.data):
                seconds = time.perf_counter() - sent_at[connection_of(key)]
                answers.append((bytes(key.data), seconds))
                selector.unregister(key.fileobj)
    for connection in connections:
        connection.close()
    return [Answer.of(*answer) for answer in answers]


def connection_of(key: selectors.SelectorKey) -> socket.socket:
    assert isinstance(key.fileobj, socket.socket), "registered above. This is a bug."
    return key.fileobj


def is_whole(answer: bytearray) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    return bool(end) and len(body) == int(headers_of(bytes(head))["content-length"])


def headers_of(head: bytes) -> dict[str, str]:
    lines = head.decode().split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


async def count_finished(url: str, ids: list[str]) -> int:
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30.0) as client:
        give_up_at, open_ids, done = time.monotonic() + ENDS_TIMEOUT_S, ids, 0
        while open_ids and time.monotonic() < give_up_at:
            answers = [(await client.get(f"/v1/edits/{i}")).json() for i in open_ids]
            done += sum(job["status"] == "succeeded" for job in answers)
            open_ids = [job["id"] for job in answers if job["finished_at"] is None]
            await asyncio.sleep(0.2)
    return done


def measure(num_connections: int, depth: int, folder: Path) -> Report:
    with PrivateRedis() as redis:
        write_manifests(folder)
        settings = Settings(
            redis_url=redis.url, plugins_store=folder, port=free_port(), grpc_port=0,
            max_queue_depth=depth, heartbeat_s=20.0, request_timeout_s=300.0,
        )  # fmt: skip
        with running_api(settings) as url, Fleet(settings, 1, serve_scripted) as fleet:
            _wait_for_worker(url)
            (worker,) = fleet.processes
            os.kill(worker.pid, signal.SIGSTOP)
            answers = submit_all(settings.port, num_connections)
            os.kill(worker.pid, signal.SIGCONT)
            ids = [answer.job_id for answer in answers if answer.status == httpx.codes.ACCEPTED]
            finished = asyncio.run(count_finished(url, ids))
    return report_of(answers, finished)


def report_of(answers: list[Answer], finished: int) -> Report:
    refused = [a for a in answers if a.status == httpx.codes.TOO_MANY_REQUESTS]
    times = sorted(1000 * answer.seconds for answer in refused)
    return Report(
        connections=len(answers),
        admitted=sum(answer.status == httpx.codes.ACCEPTED for answer in answers),
        finished=finished,
        refused=len(refused),
        with_retry_after=sum(answer.retry_after.isdigit() for answer in refused),
        refused_p50_ms=round(statistics.median(times), 1),
        refused_p99_ms=round(statistics.quantiles(times, n=100)[98], 1),
        refused_max_ms=round(times[-1], 1),
    )


def _wait_for_worker(url: str) -> None:
    give_up_at = time.monotonic() + READY_TIMEOUT_S
    while not httpx.get(f"{url}/readyz", trust_env=False).json()["workers"]:
        assert time.monotonic() < give_up_at, "the worker did not start in time"
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Submissions against a full queue.")
    parser.add_argument("--connections", type=int, default=300)
    parser.add_argument("--depth", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(options.connections, options.depth, Path(folder))
    print(json.dumps(asdict(report), indent=2))
    refused = options.connections - options.depth
    expected = (options.depth, options.depth, refused, refused)
    counts = (report.admitted, report.finished, report.refused, report.with_retry_after)
    sys.exit(0 if counts == expected else 1)


if __name__ == "__main__":
    main()
