"""Does `diffplugin plan-capacity` foretell a real run? The same arrivals, simulated and measured.

python -m loadtests.capacity_check [--base paced|nano] [--workers 2] [--load 0.7] [--jobs 200]

`paced`: workers whose engine waits --step-s for a step, as one waits for a GPU, so that several fit
on one machine; everything else of them is real, as are api and Redis. `nano`: the whole service as
`diffplugin serve` starts it, one worker, with real edits. The step times come from /metrics: once
from edits one after the other, once from a full worker. Prints both, and measured over simulated.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from loadtests.overload import running_api
from loadtests.target import damaged_photo
from service.capacity_plan import Forecast, summary
from service.capacity_simulation import Floats, StepTimes, simulate
from service.client import AsyncClient
from service.launch import exit_on_sigterm, free_port, running_service
from service.redis_server import PrivateRedis
from service.settings import Settings
from tests.api_stack import write_manifests

NUM_STEPS = 8  # of a paced edit
NUM_ALONE = 8
READY_TIMEOUT_S = 300.0
PLUGIN = "derain"
LIMIT = 0.2


@contextlib.contextmanager
def paced_fleet(num_workers: int, step_s: float, max_rows: int) -> Iterator[str]:
    """Url of an api with that many paced workers behind it."""
    with tempfile.TemporaryDirectory() as folder, PrivateRedis() as redis:
        write_manifests(Path(folder))
        settings = Settings(
            redis_url=redis.url, plugins_store=Path(folder), port=free_port(), grpc_port=0
        )
        command = [sys.executable, "-m", "loadtests.paced_worker"]
        command += [str(step_s), str(NUM_STEPS), str(max_rows)]
        variables = {**os.environ, "DIFFPLUGIN_REDIS_URL": redis.url}
        workers = [subprocess.Popen(command, env=variables) for _ in range(num_workers)]
        try:
            with running_api(settings) as url:
                _wait_for_workers(url, num_workers)
                yield url
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.wait(60)


def _wait_for_workers(url: str, number: int) -> None:
    give_up_at = time.monotonic() + READY_TIMEOUT_S
    while httpx.get(f"{url}/readyz", trust_env=False, timeout=30).json()["workers"] < number:
        assert time.monotonic() < give_up_at, "the workers did not start in time"
        time.sleep(0.5)


class Metrics:
    """Sums over all workers of what /metrics says, as soon as it tells of `num_jobs` ends."""

    def __init__(self, url: str, num_jobs: int) -> None:
        give_up_at = time.monotonic() + READY_TIMEOUT_S
        self._read(url)
        while self._values.get("diffplugin_jobs_total", 0) < num_jobs:  # workers tell now and then
            assert time.monotonic() < give_up_at, f"/metrics does not tell of {num_jobs} jobs"
            time.sleep(0.5)
            self._read(url)

    def _read(self, url: str) -> None:
        text = httpx.get(f"{url}/metrics", trust_env=False, timeout=60).text
        self._values: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                stage = sample.labels.get("stage", "")
                name = f"{sample.name} {stage}".strip()
                self._values[name] = self._values.get(name, 0.0) + sample.value

    def mean_since(self, before: "Metrics", name: str, stage: str = "") -> float:
        """Of a histogram between two moments; 0 if nothing was observed."""
        total, count = (
            self.since(before, f"{name}_{part} {stage}".strip()) for part in ("sum", "count")
        )
        return total / count if count else 0.0

    def since(self, before: "Metrics", name: str) -> float:
        return self._values.get(name, 0.0) - before._values.get(name, 0.0)


async def send(
    url: str, photo: bytes, due_s: Floats, num_clients: int = 0
) -> tuple[Floats, Floats]:
    """(when sent, seconds) of edits that are due at these times; at most `num_clients` open."""
    limits = httpx.Limits(max_connections=None)
    transport = httpx.AsyncHTTPTransport(limits=limits)
    places = asyncio.Semaphore(num_clients or len(due_s))
    began = time.monotonic()

    async with AsyncClient(url, transport=transport) as client:

        async def one(due: float) -> tuple[float, float]:
            await asyncio.sleep(max(0.0, began + due - time.monotonic()))
            async with places:
                sent = time.monotonic()
                await client.edit(photo, plugins=[PLUGIN], seed=1)
                return sent - began, time.monotonic() - sent

        pairs = await asyncio.gather(*(one(float(due)) for due in due_s))
    sent, seconds = np.array(sorted(pairs)).T
    return sent, seconds


def measure_times(url: str, photo: bytes, max_rows: int, num_workers: int) -> StepTimes:
    """From edits one after the other, and from workers that are kept full."""
    num_warm, full = 2 * num_workers, 2 * max_rows * num_workers
    asyncio.run(send(url, photo, np.zeros(num_warm)))
    start = Metrics(url, num_warm)
    _, seconds = asyncio.run(send(url, photo, np.zeros(NUM_ALONE), 1))
    alone = Metrics(url, num_warm + NUM_ALONE)
    num_full = 3 * full
    sent, took = asyncio.run(send(url, photo, np.zeros(num_full), full))
    end = Metrics(url, num_warm + NUM_ALONE + num_full)
    num_steps = round(alone.since(start, "diffplugin_steps_total") / NUM_ALONE)
    prepare_s, finish_s = (
        alone.mean_since(start, "diffplugin_stage_seconds", stage)
        for stage in ("prepare", "finish")
    )
    # All workers were busy: what is left of a batch's share of the time, they spend between steps.
    batches = end.since(alone, "diffplugin_batches_total")
    cycle_s = num_workers * float(max(sent + took) - min(sent)) / batches
    cycle_s -= (prepare_s + finish_s) * num_full / batches
    alone_s, full_s = (
        after.mean_since(before, "diffplugin_denoise_step_seconds")
        for before, after in ((start, alone), (alone, end))
    )
    between_s = max(0.0, cycle_s - full_s)
    rows = round(end.mean_since(alone, "diffplugin_batch_size"))
    step_s = {1: alone_s + between_s, rows: full_s + between_s}
    inside_s = num_steps * step_s[1] + prepare_s + finish_s
    outside_s = max(0.0, statistics.median(seconds) - inside_s)
    return StepTimes(step_s, num_steps, prepare_s, finish_s, outside_s)


def compare(
    url: str, photo: bytes, num_workers: int, max_rows: int, load: float, num_jobs: int
) -> dict[str, object]:
    times = measure_times(url, photo, max_rows, num_workers)
    rate = load * num_workers * times.edits_per_s(max_rows)
    due = np.cumsum(np.random.default_rng(0).exponential(1 / rate, num_jobs))
    sent, seconds = asyncio.run(send(url, photo, due))
    simulated = summary(simulate(sent, times, num_workers, max_rows), num_workers)
    p50_s, p95_s, p99_s = (float(np.percentile(seconds, percent)) for percent in (50, 95, 99))
    measured = Forecast(num_workers, p50_s, p95_s, p99_s, float("nan"), float("nan"))
    ratios = {
        name: round(getattr(measured, name) / getattr(simulated, name), 3)
        for name in ("p50_s", "p95_s")
    }
    return {
        "edits_per_s": round(rate, 3),
        "num_jobs": num_jobs,
        "times": asdict(times),
        "simulated": asdict(simulated),
        "measured": {
            name: round(getattr(measured, name), 4) for name in ("p50_s", "p95_s", "p99_s")
        },
        "measured_over_simulated": ratios,
        "within_20_percent": all(abs(ratio - 1) <= LIMIT for ratio in ratios.values()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.capacity_check", description=__doc__)
    parser.add_argument("--base", choices=("paced", "nano"), default="paced")
    parser.add_argument("--workers", type=int, default=2, help="of paced; nano has one")
    parser.add_argument("--load", type=float, default=0.7, help="share of what they can do")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--step-s", type=float, default=0.1, help="of a paced step")
    parser.add_argument("--rows", type=int, default=4, help="max_batch_size")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    exit_on_sigterm()
    photo = damaged_photo(PLUGIN, 128 if options.base == "paced" else 256)
    if options.base == "paced":
        fleet = paced_fleet(options.workers, options.step_s, options.rows)
        num_workers = options.workers
    else:
        settings = {"DIFFPLUGIN_NUM_THREADS": "1", "DIFFPLUGIN_MAX_BATCH_SIZE": str(options.rows)}
        service = running_service(Path("runs/loadtests/service.log"), READY_TIMEOUT_S, settings)
        fleet, num_workers = _url_of(service), 1
    with fleet as url:
        found = compare(url, photo, num_workers, options.rows, options.load, options.jobs)
    found = {"base": options.base, "workers": num_workers, "rows": options.rows} | found
    print(json.dumps(found, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if found["within_20_percent"] else 1


@contextlib.contextmanager
def _url_of(service: contextlib.AbstractContextManager[object]) -> Iterator[str]:
    with service as running:
        yield running.url  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main())
