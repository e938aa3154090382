"""Files broken in every way, sent to a real api process with a real worker behind it.

Every answer is a picture or a client error; no process ends, and none takes much memory.
"""

import io
import os
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

ROOT = Path(__file__).parent.parent
ALLOWED = {200, 413, 415, 422}
MAX_PIXELS = 4_000_000
MAX_PEAK_BYTES = 700 * 2**20
MAX_GROWTH_BYTES = 200 * 2**20  # over the whole run, once all good files went through
START_S = 120.0
COMMANDS = {
    "api": ["-m", "service.cli", "api"],
    "worker": ["-m", "loadtests.paced_worker", "0", "1", "8"],
}


def cases(num_cases: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Names, whose extensions lie as often as not, and contents: each good file as it is, then
    damaged.
    """
    chance, good = random.Random(seed), [*seeds(), *whole_files()]
    for case in range(num_cases):
        data = bytearray(good[case % len(good)])
        for mutate in chance.sample(MUTATIONS, chance.randint(1, 2)) if case >= len(good) else ():
            if data:
                mutate(data, chance)
        yield f"a.{chance.choice(('png', 'jpg', 'gif', 'exe', 'html', ''))}", bytes(data)


def whole_files() -> list[bytes]:
    """Bombs, polyglots, shapes and other things that are not damaged."""
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


class Service:
    """An api process and a worker process on a queue."""

    def __init__(self, url: str, processes: dict[str, subprocess.Popen[bytes]], log: Path) -> None:
        self._processes, self._log = processes, log
        self.client = httpx.Client(base_url=url, timeout=60, trust_env=False)

    def send(self, case: tuple[str, bytes]) -> int:
        """The status of the answer to a file of that name and content."""
        files = {"image": case, "plugins": (None, "derain")}
        return self.client.post("/v1/edit", files=files).status_code

    def wait_until_it_works(self) -> None:
        good = file_of(Image.new("RGB", (40, 30), "red"), "PNG")
        give_up_at = time.monotonic() + START_S
        while time.monotonic() < give_up_at:
            self.assert_alive()
            try:
                if self.send(("a.png", good)) == 200:
                    return
            except httpx.TransportError:  # the api does not listen yet
                pass
            time.sleep(0.2)
        raise AssertionError(f"not ready after {START_S:.0f} s: {self._log.read_text()[-2000:]}")

    def assert_alive(self) -> None:
        for role, process in self._processes.items():
            assert process.poll() is None, f"the {role} ended: {self._log.read_text()[-2000:]}"

    def bytes_of(self, field: str) -> dict[str, int]:
        """VmRSS, or the peak VmHWM, of each process."""
        found = {}
        for role, process in self._processes.items():
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            (line,) = (line for line in lines if line.startswith(field))
            found[role] = 1024 * int(line.split()[1])
        return found


@contextmanager
def running(tmp_path: Path, redis_url: str) -> Iterator[Service]:
    port = free_port()
    environment = {
        **os.environ,
        "DIFFPLUGIN_REDIS_URL": redis_url,
        "DIFFPLUGIN_PORT": str(port),
        "DIFFPLUGIN_GRPC_PORT": "0",
        "DIFFPLUGIN_MAX_IMAGE_PIXELS": str(MAX_PIXELS),
        "DIFFPLUGIN_PICTURES_FOLDER": str(tmp_path / "pictures"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    log = tmp_path / "log"
    with log.open("wb") as out:
        processes = {
            role: subprocess.Popen(
                [sys.executable, *command], env=environment, cwd=ROOT, stdout=out, stderr=out
            )
            for role, command in COMMANDS.items()
        }
        service = Service(f"http://127.0.0.1:{port}", processes, log)
        try:
            with service.client:
                yield service
        finally:
            for process in processes.values():
                process.terminate()
            for process in processes.values():
                process.wait(30)


def fuzz(tmp_path: Path, redis_url: str, num_cases: int, seed: int) -> Counter[int]:
    """How often each status was answered."""
    with running(tmp_path, redis_url) as service, ThreadPoolExecutor(8) as pool:
        service.wait_until_it_works()
        sent = list(cases(num_cases, seed))
        num_good = len(seeds()) + len(whole_files())
        answers = list(pool.map(service.send, sent[:num_good]))
        before = service.bytes_of("VmRSS")
        answers += pool.map(service.send, sent[num_good:])
        for status, (name, data) in zip(answers, sent, strict=True):
            assert status in ALLOWED, f"{status} for {name} of {len(data)} bytes: {data[:64]!r}"
        service.assert_alive()
        after, peaks = service.bytes_of("VmRSS"), service.bytes_of("VmHWM")
    growth = {role: after[role] - before[role] for role in COMMANDS}
    print(dict(Counter(answers)), {"growth": growth, "peak": peaks})
    assert max(growth.values()) < MAX_GROWTH_BYTES, growth
    assert max(peaks.values()) < MAX_PEAK_BYTES, peaks
    return Counter(answers)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_broken_files_are_answered_with_pictures_or_client_errors(
    tmp_path: Path, redis_url: str
) -> None:
    answers = fuzz(tmp_path, redis_url, num_cases=300, seed=1)
    assert set(answers) == ALLOWED, answers


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_five_thousand_broken_files(tmp_path: Path, redis_url: str) -> None:
    answers = fuzz(tmp_path, redis_url, num_cases=5000, seed=2)
    assert answers[200] > 300 and answers[422] > 1000, answers
