"""What the service costs beside its engine: HTTP, queue and worker protocol, against LitServe.

python -m loadtests.frontend [--seconds 10] [--rounds 3] [--connections 32] [--venv runs/litserve]

Both servers take a PNG of 380 kB as a form and answer it unchanged; they run one after the other,
in turns, driven by wrk. CPU is user and system time of all of a server's processes: for ours the
api, Redis and the worker. LitServe is installed into a virtual environment of its own.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from service.images import encode
from service.queue_pictures import folder_in_memory
from service.redis_server import PrivateRedis

LITSERVE = ("litserve==0.2.19", "python-multipart", "uvicorn[standard]")  # as fast as it gets
BOUNDARY = "one-picture-between-two-lines"
START_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Server:
    """A running server: where a form is posted, and the processes that serve it."""

    url: str
    pids: tuple[int, ...]


@dataclass(frozen=True)
class Sample:
    """One run against one server."""

    requests_per_s: float
    cpu_ms: float  # per request


def main() -> None:
    options = _options()
    picture = noise_png()
    samples: dict[str, list[Sample]] = {"ours": [], "litserve": []}
    python = _litserve_python(options.venv)
    for number in range(options.rounds):
        order = [("ours", our_server()), ("litserve", litserve_server(python))]
        for name, server in order if number % 2 == 0 else reversed(order):
            with server as running:
                _check_answer(running.url, picture)
                samples[name].append(drive(running, picture, options))
                print(name, samples[name][-1], file=sys.stderr)
    print(json.dumps(report(samples, len(picture)), indent=2))


def report(samples: dict[str, list[Sample]], num_bytes: int) -> dict[str, object]:
    """Medians over the rounds; below 1/3 of the CPU and above 2.5 times the rate is the goal."""
    rate = {n: statistics.median(s.requests_per_s for s in runs) for n, runs in samples.items()}
    cpu = {n: statistics.median(s.cpu_ms for s in runs) for n, runs in samples.items()}
    return {
        "picture_bytes": num_bytes,
        "requests_per_s": {name: round(value, 1) for name, value in rate.items()},
        "cpu_ms_per_request": {name: round(value, 3) for name, value in cpu.items()},
        "rate_ratio": round(rate["ours"] / rate["litserve"], 2),
        "cpu_ratio": round(cpu["ours"] / cpu["litserve"], 3),
    }


def drive(server: Server, picture: bytes, options: argparse.Namespace) -> Sample:
    """Let wrk post the picture over and over; raises if an answer was not 2xx."""
    with tempfile.TemporaryDirectory() as folder:
        body, script = Path(folder, "body"), Path(folder, "post.lua")
        body.write_bytes(form_of(picture))
        script.write_text(
            'wrk.method = "POST"\n'
            f'wrk.headers["Content-Type"] = "multipart/form-data; boundary={BOUNDARY}"\n'
            f'wrk.body = io.open("{body}", "rb"):read("*a")\n'
            "done = function(summary)\n"
            "  local e = summary.errors\n"
            '  io.write(string.format("RESULT %d %d %d\\n", summary.requests, summary.duration,'
            " e.connect + e.read + e.write + e.status + e.timeout))\n"
            "end\n"
        )
        wrk = ["wrk", "-t1", f"-c{options.connections}", "--timeout", "30s", "-s", str(script)]
        subprocess.run([*wrk, "-d1s", server.url], check=True, capture_output=True)  # warm up
        before = cpu_s(server.pids)
        output = subprocess.run(
            [*wrk, f"-d{options.seconds}s", server.url], check=True, capture_output=True, text=True
        ).stdout
        cpu = cpu_s(server.pids) - before
    words = output.split("RESULT ")[1].split()
    num_requests, duration_us, num_errors = (int(word) for word in words)
    if num_errors or not num_requests:
        raise SystemExit(f"{num_errors} of {num_requests} requests to {server.url} failed")
    return Sample(num_requests / duration_us * 1e6, 1000 * cpu / num_requests)


@contextlib.contextmanager
def our_server() -> Iterator[Server]:
    """api, Redis and a worker that ends every job with what it was given."""
    port = free_port()
    with contextlib.ExitStack() as exits:
        redis = exits.enter_context(PrivateRedis())
        folder = exits.enter_context(folder_in_memory())  # as `serve` has it
        environment = {
            **os.environ,
            "DIFFPLUGIN_REDIS_URL": redis.url,
            "DIFFPLUGIN_PORT": str(port),
            "DIFFPLUGIN_GRPC_PORT": "0",
            "DIFFPLUGIN_PICTURES_FOLDER": str(folder or ""),
        }
        api = [sys.executable, "-m", "service.cli", "api"]
        worker = [sys.executable, "-m", "loadtests.echo_worker"]
        pids = [exits.enter_context(_process(command, environment)) for command in (api, worker)]
        _wait_for(f"http://127.0.0.1:{port}/livez")
        yield Server(f"http://127.0.0.1:{port}/v1/edit", (redis.pid, *pids))


@contextlib.contextmanager
def litserve_server(python: Path) -> Iterator[Server]:
    port = free_port()
    script = Path(__file__).with_name("litserve_noop.py")
    with _process([str(python), str(script), str(port)], dict(os.environ)) as pid:
        _wait_for(f"http://127.0.0.1:{port}/health")
        yield Server(f"http://127.0.0.1:{port}/predict", (pid,))


def form_of(picture: bytes) -> bytes:
    """multipart/form-data; the plugin is named, so no selector is asked."""
    part = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name="
    return b"".join(
        (
            f'{part}"plugins"\r\n\r\nderain\r\n'.encode(),
            f'{part}"image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'.encode(),
            picture,
            f"\r\n--{BOUNDARY}--\r\n".encode(),
        )
    )


def noise_png() -> bytes:
    """512x512, of 380 kB: near the worst case of a photo."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:512, :512]
    smooth = 128 + 80 * np.sin(x / 80) * np.cos(y / 60)
    noise = rng.integers(-2, 3, (512, 512, 3))
    return encode(np.clip(smooth[..., None] + noise, 0, 255).astype(np.uint8), "png")


def cpu_s(pids: tuple[int, ...]) -> float:
    """User and system seconds of these processes and all below them."""
    ticks, children = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended meanwhile
            fields = stat.read_text().rpartition(")")[2].split()
            pid = int(stat.parent.name)
            ticks[pid] = sum(map(int, fields[11:15]))
            children.setdefault(int(fields[1]), []).append(pid)
    seen, todo = set(), list(pids)
    while todo:
        pid = todo.pop()
        seen.add(pid)
        todo += children.get(pid, [])
    return sum(ticks.get(pid, 0) for pid in seen) / os.sysconf("SC_CLK_TCK")


def _check_answer(url: str, picture: bytes) -> None:
    if _answer(url, picture) != picture:
        raise SystemExit(f"{url} does not answer with the picture that was sent")


def _answer(url: str, picture: bytes) -> bytes:
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:  # the worker may still be starting
        answer = httpx.post(url, content=form_of(picture), headers=headers, timeout=30)
        if answer.status_code == 200 or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    if answer.status_code != 200:
        raise SystemExit(f"{url} answered {answer.status_code}: {answer.content[:300]!r}")
    return answer.content


def _litserve_python(venv: Path) -> Path:
    """Python of the virtual environment; made, with LitServe in it, if it is not there."""
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *LITSERVE], check=True)
    return python


@contextlib.contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Iterator[int]:
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    raise SystemExit(f"{url} does not answer after {START_TIMEOUT_S:.0f} s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=10, help="of a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--venv", type=Path, default=Path("runs/litserve"), help="for LitServe")
    return parser.parse_args()


if __name__ == "__main__":
    main()
