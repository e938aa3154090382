"""Load scenarios over HTTP and gRPC: an SLO report as JSON and a picture.

python -m loadtests.scenarios steady|burst|plugins|sizes|slow [--seconds 60] [--out runs/loadtests]
"""

from loadtests.load_run import Load, run_load  # first: it patches sockets

# isort: split
import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from loadtests.latency import SENTENCES
from loadtests.locust_users import GrpcCaller, HttpCaller, SlowCaller
from loadtests.process_memory import MemoryLog
from loadtests.slo_report import Answer, Objective, draw, latency, memory_figures, report, write
from loadtests.traffic import Mix, pauses
from service.launch import exit_on_sigterm, free_port, running_service

TASKS = tuple(SENTENCES)
SIZES = (192, 256, 384)
START_TIMEOUT_S = 300.0
BOTH = {HttpCaller: 4, GrpcCaller: 2}
# What deploy/prometheus alerts on: answers without error, and edits within ten seconds.
ERROR_SHARE, SLOW_S = 0.01, 10.0


def steady(seconds: float) -> Load:
    """One plugin, one size, two edits a second."""
    return Load(BOTH, Mix(), pauses([(1, 3.0)]), seconds)


def burst(seconds: float) -> Load:
    """Twelve callers: nothing much for fifteen seconds, then everybody at once for five."""
    users = {HttpCaller: 8, GrpcCaller: 4}
    return Load(users, Mix(), pauses([(15, 10.0), (5, 0.5)]), seconds)


def plugins(seconds: float) -> Load:
    """Four plugins, which share UNet calls."""
    return Load(BOTH, Mix(tasks=TASKS), pauses([(1, 3.0)]), seconds)


def sizes(seconds: float) -> Load:
    """Three sizes of photos, which cannot share calls."""
    return Load(BOTH, Mix(sizes=SIZES), pauses([(1, 3.0)]), seconds)


def slow(seconds: float) -> Load:
    """Eight uploads that crawl, beside callers that do not."""
    return Load({**BOTH, SlowCaller: 8}, Mix(), pauses([(1, 3.0)]), seconds)


SCENARIOS: dict[str, Callable[[float], Load]] = {
    "steady": steady,
    "burst": burst,
    "plugins": plugins,
    "sizes": sizes,
    "slow": slow,
}


def objectives(answers: list[Answer]) -> list[Objective]:
    found = latency(answers)
    share = found["errors"] / max(1, found["answers"])
    return [
        Objective("error_share", share, ERROR_SHARE),
        Objective("p95_s", found["p95_s"], SLOW_S),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.scenarios", description=__doc__)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=Path("runs/loadtests"))
    options = parser.parse_args()
    exit_on_sigterm()
    load, grpc_port = SCENARIOS[options.scenario](options.seconds), free_port()
    settings = {"DIFFPLUGIN_GRPC_PORT": str(grpc_port)}
    with running_service(options.out / "service.log", START_TIMEOUT_S, settings) as service:
        run_load(Load(load.users, load.mix, lambda _: 0.0, 3.0), service.url, grpc_port)  # warms up
        memory = MemoryLog(service.pid, time.monotonic())
        answers = run_load(load, service.url, grpc_port, memory)
    figures = memory_figures(memory, options.seconds / 2)
    found = report(options.scenario, options.seconds, answers, figures, objectives(answers))
    write(options.out / f"{options.scenario}.json", found)
    draw(options.out / f"{options.scenario}.png", options.scenario, answers, memory)
    print(json.dumps(found, indent=2))
    return 0 if all(o["holds"] for o in found["objectives"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
