"""Files broken in every way, sent to a real api process with a real worker behind it.

Every answer is a picture or a client error; no process ends, and none takes much memory.
"""

import io
import random
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from PIL import Image

from loadtests.frontend import free_port
from tests.test_image_fuzz import MUTATIONS, seeds
from tests.test_images import file_of, png_with_header

ALLOWED = {200, 413, 415, 422}
MAX_PIXELS = 4_000_000
MAX_PEAK_BYTES = 700 * 2**20
START_S = 120.0


def cases(num_cases: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Names, whose extensions lie as often as not, and contents."""
    chance, good = random.Random(seed), [*seeds(), *whole_cases()]
    for case in range(num_cases):
        data = bytearray(good[case % len(good)])
        # Every good file once as it is, then damaged.
        for mutate in chance.sample(MUTATIONS, chance.randint(1, 2)) if case >= len(good) else ():
            if data:
                mutate(data, chance)
        yield f"a.{chance.choice(('png', 'jpg', 'gif', 'exe', 'html', ''))}", bytes(data)


def whole_cases() -> list[bytes]:
    """Bombs, polyglots and shapes that are not damaged."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("run.sh", "echo")
    png, jpeg = (file_of(Image.new("RGB", (40, 30), "red"), kind) for kind in ("PNG", "JPEG"))
    return [
        png_with_header(60_000, 60_000),
        png_with_header(2_000, 2_000),
        file_of(Image.new("1", (20_000, 20_000)), "PNG"),
        file_of(Image.new("RGB", (30_000, 10)), "PNG"),
        file_of(Image.new("L", (1, 1)), "JPEG"),
        png + archive.getvalue(), jpeg + archive.getvalue(), png + b"<script>", jpeg + b"%PDF-1.4",
        b"", b"GIF89a", b"<svg xmlns='http://www.w3.org/2000/svg'/>", bytes(1000),
    ]  # fmt: skip


@contextmanager
def running(tmp_path: Path, redis_url: str) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """URL of an api process, and it and its worker."""
    port = free_port()
    environment = {
        "DIFFPLUGIN_REDIS_URL": redis_url,
        "DIFFPLUGIN_PORT": str(port),
        "DIFFPLUGIN_GRPC_PORT": "0",
        "DIFFPLUGIN_MAX_IMAGE_PIXELS": str(MAX_PIXELS),
        "DIFFPLUGIN_MAX_QUEUE_DEPTH": "64",
        "PYTHONPATH": str(Path(__file__).parent.parent),
        "OMP_NUM_THREADS": "1",
    }
    commands = (
        ["-m", "service.cli", "api"],
        ["-m", "loadtests.paced_worker", "0", "1", "8"],
    )
    with (tmp_path / "log").open("wb") as log:
        processes = [
            subprocess.Popen([sys.executable, *command], env=environment, stdout=log, stderr=log)
            for command in commands
        ]
        try:
            yield f"http://127.0.0.1:{port}", processes
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(20)


def wait_until_it_works(client: httpx.Client) -> None:
    good = file_of(Image.new("RGB", (40, 30), "red"), "PNG")
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            if send(client, ("a.png", good)) == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("the service does not start")


def send(client: httpx.Client, case: tuple[str, bytes]) -> int:
    files = {"image": case, "plugins": (None, "derain")}
    return client.post("/v1/edit", files=files).status_code


def peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return 1024 * int(peak)


def fuzz(tmp_path: Path, redis_url: str, num_cases: int, seed: int) -> Counter[int]:
    """How often each status was answered; asserts that both processes live and are small."""
    with running(tmp_path, redis_url) as (url, processes), httpx.Client(base_url=url) as client:
        client.timeout = 60
        wait_until_it_works(client)
        with ThreadPoolExecutor(8) as pool:
            all_cases = list(cases(num_cases, seed))
            answers = list(pool.map(lambda case: send(client, case), all_cases))
        for status, (name, data) in zip(answers, all_cases, strict=True):
            assert status in ALLOWED, f"{status} for {name} of {len(data)} bytes: {data[:64]!r}"
        assert all(process.poll() is None for process in processes), "a process ended"
        for process in processes:
            assert peak_bytes(process.pid) < MAX_PEAK_BYTES
    return Counter(answers)


@pytest.mark.slow
def test_broken_files_are_answered_with_pictures_or_client_errors(
    tmp_path: Path, redis_url: str
) -> None:
    answers = fuzz(tmp_path, redis_url, num_cases=150, seed=1)
    assert set(answers) == ALLOWED, answers


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_five_thousand_broken_files(tmp_path: Path, redis_url: str) -> None:
    answers = fuzz(tmp_path, redis_url, num_cases=5000, seed=2)
    assert answers[200] > 300 and answers[422] > 1000, answers
