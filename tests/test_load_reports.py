"""What the load scenarios send and report; and, with --full, one of them against a real service."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from loadtests.process_memory import MemoryLog, role_of, slope_mb_per_min
from loadtests.slo_report import Answer, Objective, draw, latency, memory_figures, report
from loadtests.traffic import HEADERS, Mix, pauses
from service.api.multipart import parse_form


def answers() -> list[Answer]:
    good = [Answer(float(i), "HTTP 256", 0.1 * (i + 1), "") for i in range(10)]
    return [*good, Answer(4.0, "gRPC 256", 60.0, "UNAVAILABLE")]


def test_percentiles_are_of_what_succeeded_and_errors_are_counted() -> None:
    found = latency(answers())
    assert (found["answers"], found["errors"]) == (11, 1)
    assert found["p50_s"] == pytest.approx(0.55) and found["p99_s"] < 1.01


def test_objectives_of_nothing_do_not_hold() -> None:
    assert Objective("p95", 2.0, 2.0).holds and not Objective("p95", 2.01, 2.0).holds
    assert not Objective("p95", math.nan, 2.0).holds
    found = report("steady", 10.0, answers(), {}, [Objective("errors", 1, 0)])
    assert found["objectives"]["errors"]["holds"] is False
    assert found["errors"] == ["UNAVAILABLE"] and found["answers_per_s"] == 1.1


def test_memory_that_grows_after_the_warm_up_is_seen() -> None:
    filling = [(float(s), 100.0 + 5 * min(s, 60)) for s in range(121)]
    assert slope_mb_per_min(filling, 60) == pytest.approx(0, abs=0.01)
    leaking = [(float(s), 100.0 + s / 30) for s in range(121)]
    assert slope_mb_per_min(leaking, 60) == pytest.approx(2.0)
    assert math.isnan(slope_mb_per_min(leaking, 120))


def test_processes_are_found_by_their_role() -> None:
    assert role_of(["python", "-m", "service.cli", "worker"]) == "worker"
    assert role_of(["/usr/bin/redis-server unixsocket:/tmp/x"]) == "redis"
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE):
        log = MemoryLog(os.getpid(), 0.0)
        log.take()
        log.take()
    used = psutil.Process().memory_info().rss / 2**20
    assert max(used for _, used in log.samples["other"]) == pytest.approx(used, rel=0.2)
    assert "slope_mb_per_min" in memory_figures(log, 0.0)["other"]


def test_wishes_are_forms_that_the_api_reads() -> None:
    mix = Mix(sizes=(64, 96), tasks=("derain", "dehaze"))
    wishes = [mix.pick() for _ in range(12)]
    assert {wish.size for wish in wishes} == {64, 96}
    assert {bool(wish.plugin) for wish in wishes} == {True, False}
    for wish in wishes[:3]:
        parts = {part.name: part for part in parse_form(wish.form, HEADERS["Content-Type"])}
        assert parts["image"].content == wish.image
        assert parts.keys() == {"image", "plugins" if wish.plugin else "instruction"}
    again = Mix(sizes=(64, 96), tasks=("derain", "dehaze"))
    assert [again.pick() for _ in range(12)] == wishes


def test_pacing_follows_its_phases_again_and_again() -> None:
    pacing = pauses([(15, 10.0), (5, 0.5)])
    assert [pacing(t) for t in (0, 14.9, 15, 19.9, 20, 36)] == [10, 10, 0.5, 0.5, 10, 0.5]


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    log = MemoryLog(0, 0.0, {"api": [(0.0, 90.0), (9.0, 91.0)]})
    draw(tmp_path / "a.png", "steady", answers(), log)
    with Image.open(tmp_path / "a.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_scenario_runs_against_a_real_service(tmp_path: Path) -> None:
    if importlib.util.find_spec("locust") is None:
        pytest.skip("no locust: pip install -c constraints.txt '.[loadtest]'")
    command = [sys.executable, "-m", "loadtests.scenarios", "plugins", "--seconds", "20"]
    subprocess.run([*command, "--out", str(tmp_path)], check=False, timeout=500)
    found = json.loads((tmp_path / "plugins.json").read_text())
    assert found["all"]["answers"] > 0 and found["errors"] == []
    assert {name.split()[0] for name in found["by_name"]} == {"HTTP", "gRPC"}
    assert {"api", "selector", "worker", "redis"} <= found["memory"].keys()
    assert (tmp_path / "plugins.png").stat().st_size > 10_000
