"""Mixed traffic at 80 % of what the service can take, for minutes: errors, latency, memory.

python -m loadtests.soak [--minutes 10] [--out runs/loadtests]

First the capacity, for five minutes: every caller sends its next edit at once, so that the batch is
always full, and what the processes keep for later steps levels off. Then each sends one every so
many seconds that all together ask for 80 % of it. That is a closed model, callers with a pace of
their own: at most one edit of each is open, and a late answer delays only its own caller's next.
Four plugins, by name and by sentence, two sizes, HTTP and gRPC.
"""

from loadtests.load_run import Load, run_load  # first: it patches sockets

# isort: split
import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from loadtests.locust_users import GrpcCaller, HttpCaller
from loadtests.process_memory import MemoryLog
from loadtests.scenarios import START_TIMEOUT_S, TASKS
from loadtests.slo_report import Answer, Objective, draw, latency, memory_figures, report, write
from loadtests.traffic import Mix
from service.launch import RunningService, exit_on_sigterm, free_port, running_service

USERS = {HttpCaller: 8, GrpcCaller: 4}
SIZES = (224, 256)
SHARE = 0.8
MAX_SLOPE_MB_PER_MIN, MAX_SPREAD = 1.0, 2.0


def capacity(service: RunningService, grpc_port: int, seconds: float) -> float:
    """Edits per second with every caller at it all the time; the first fifth warms up."""
    answers = run_load(Load(USERS, _mix(), lambda _: 0.0, seconds), service.url, grpc_port)
    wrong = {answer.error for answer in answers if answer.error}
    if wrong:
        raise SystemExit(f"edits failed while the capacity was measured: {sorted(wrong)[:3]}")
    began = seconds / 5
    num = sum(began < answer.at_s <= seconds for answer in answers)
    if num == 0:
        raise SystemExit(f"no edit ended within {seconds:g} s: give more --capacity-seconds")
    return num / (seconds - began)


def objectives(answers: Sequence[Answer], memory: dict[str, dict[str, float]]) -> list[Objective]:
    """Those of the soak: no error, p95 near p50, no process that grows."""
    found = latency(answers)
    slopes = [
        Objective(f"slope_mb_per_min_{role}", figures["slope_mb_per_min"], MAX_SLOPE_MB_PER_MIN)
        for role, figures in memory.items()
    ]
    spread = found["p95_s"] / found["p50_s"]
    return [
        Objective("errors", found["errors"], 0),
        Objective("p95/p50", spread, MAX_SPREAD),
        *slopes,
    ]


def _mix() -> Mix:
    return Mix(sizes=SIZES, tasks=TASKS)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--capacity-seconds", type=float, default=300.0)
    parser.add_argument("--out", type=Path, default=Path("runs/loadtests"))
    options = parser.parse_args()
    exit_on_sigterm()
    grpc_port, seconds = free_port(), 60 * options.minutes
    settings = {"DIFFPLUGIN_GRPC_PORT": str(grpc_port)}
    with running_service(options.out / "service.log", START_TIMEOUT_S, settings) as service:
        edits_per_s = capacity(service, grpc_port, options.capacity_seconds)
        pace = sum(USERS.values()) / (SHARE * edits_per_s)
        print(
            f"capacity {edits_per_s:.2f} edits/s; each caller sends every {pace:.2f} s", flush=True
        )
        memory = MemoryLog(service.pid, time.monotonic())
        load = Load(USERS, _mix(), lambda _: pace, seconds)
        answers = run_load(load, service.url, grpc_port, memory)
    figures = memory_figures(memory, seconds / 2)
    found = report("soak", seconds, answers, figures, objectives(answers, figures))
    found |= {"capacity_per_s": round(edits_per_s, 2), "share": SHARE, "pace_s": round(pace, 3)}
    write(options.out / "soak.json", found)
    draw(options.out / "soak.png", f"{SHARE:.0%} of {edits_per_s:.1f} edits/s", answers, memory)
    print(json.dumps(found, indent=2))
    return 0 if all(o["holds"] for o in found["objectives"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
