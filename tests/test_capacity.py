"""The simulated fleet agrees with what can be worked out by hand, and the planner with it."""

import json
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from service.capacity_plan import TargetOutOfReach, Traffic, forecast, plan_workers
from service.capacity_simulation import StepTimes, simulate
from service.cli import app
from service.errors import InvalidRequest

TIMES = StepTimes({1: 0.02, 8: 0.06}, num_steps=10, prepare_s=0.01, finish_s=0.005, outside_s=0.03)


def test_a_job_alone_takes_its_steps_and_what_is_around_them() -> None:
    found = simulate([0.0, 100.0], TIMES, num_workers=1)
    alone_s = 0.03 + 0.01 + 10 * 0.02 + 0.005
    assert TIMES.alone_s == pytest.approx(alone_s)
    assert found.latencies_s == pytest.approx([alone_s, alone_s])


def test_two_tasks_take_twice_the_time_in_the_engine() -> None:
    found = simulate([0.0], TIMES, num_workers=1, num_tasks=[2])
    assert found.latencies_s[0] == pytest.approx(2 * (TIMES.alone_s - 0.03) + 0.03)


def test_step_times_between_and_beyond_the_measured_rows() -> None:
    by_rows = StepTimes({2: 0.02, 4: 0.03}, 1).by_rows(6)
    assert by_rows[1:] == pytest.approx([0.02, 0.02, 0.025, 0.03, 0.035, 0.04])
    assert StepTimes({1: 0.02}, 1).by_rows(3)[1:] == pytest.approx([0.02, 0.04, 0.06])


def test_a_full_worker_gives_as_many_edits_as_worked_out() -> None:
    num = 800
    found = simulate(np.zeros(num), StepTimes({8: 0.06}, 10), num_workers=1)
    # A place that is free is claimed during one step and taken at the next: 12 steps, not 10.
    per_s = num / found.latencies_s.max()
    assert 8 / (12 * 0.06) * 0.98 < per_s <= 8 / (10 * 0.06)


def test_a_job_joins_a_busy_worker_at_the_step_after_its_claim() -> None:
    times = StepTimes({1: 0.1, 2: 0.1}, num_steps=5)
    # The second comes in step 1, is claimed in step 2 and runs in steps 3 to 7.
    found = simulate([0.0, 0.05], times, num_workers=1, max_rows=2)
    assert found.latencies_s == pytest.approx([0.5, 0.7 - 0.05])


def test_one_server_without_batches_waits_as_in_theory() -> None:
    """M/D/1: the mean wait is load / (2 (1 - load)) services."""
    load, service_s = 0.7, 0.05
    arrivals = np.cumsum(np.random.default_rng(1).exponential(service_s / load, 60_000))
    found = simulate(arrivals, StepTimes({1: service_s}, 1), num_workers=1, max_rows=1)
    wait = (found.latencies_s.mean() - service_s) / service_s
    assert wait == pytest.approx(load / (2 * (1 - load)), rel=0.05)
    assert found.utilisation == pytest.approx(load, rel=0.02)


def test_more_workers_are_never_slower() -> None:
    traffic = Traffic(40.0)
    slow = [forecast(traffic, TIMES, num).p95_s for num in (2, 3, 4, 6, 10)]
    assert all(more <= few for few, more in pairwise(slow)) and slow[-1] < slow[0]


def test_the_plan_is_the_least_number_that_is_fast_enough() -> None:
    traffic, p95_s = Traffic(60.0, mean_tasks=1.3), 0.9
    tried = plan_workers(traffic, TIMES, p95_s)
    chosen = next(one for one in tried if one.p95_s <= p95_s)
    assert forecast(traffic, TIMES, chosen.num_workers).p95_s == chosen.p95_s
    load = 60.0 / TIMES.edits_per_s(8, 1.3)
    assert chosen.num_workers > load, "they could not keep up"
    fewer = chosen.num_workers - 1
    assert fewer < load / 0.95 or forecast(traffic, TIMES, fewer).p95_s > p95_s


def test_ten_thousand_edits_a_second_are_planned_in_seconds() -> None:
    began = time.process_time()
    tried = plan_workers(Traffic(10_000.0), TIMES, p95_s=0.8)
    assert tried[-1].num_workers > 10_000 / TIMES.edits_per_s(8)
    assert time.process_time() - began < 60


def test_a_target_below_one_edit_is_refused() -> None:
    with pytest.raises(TargetOutOfReach, match="idle fleet"):
        plan_workers(Traffic(1.0), TIMES, p95_s=0.1)
    with pytest.raises(TargetOutOfReach, match="1.11 s in an idle fleet"):
        plan_workers(Traffic(1.0, mean_tasks=2.0), TIMES, p95_s=1.1)


def run(*options: str) -> str:
    result = CliRunner().invoke(app, ["plan-capacity", *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_takes_given_step_times() -> None:
    traffic = ("--edits-per-s", "50", "--p95-s", "1", "--steps", "10")
    assert "GPUs" in run(*traffic, "--step-ms", "1:20,8:60").splitlines()[-1]
    found = json.loads(run(*traffic, "--step-ms", "1:20,8:60", "--json"))
    assert found["num_gpus"] in [one["num_workers"] for one in found["tried"]]


def test_the_command_reads_a_report_of_the_gpu_bench(tmp_path: Path) -> None:
    networks = {
        "step_ms": {"1": 20.0, "8": 60.0},
        "codec_ms": {"1": {"encode": 4.0, "decode": 5.0}},
        "scb_ms": {"1": 1.0, "10": 6.0},
    }
    report = tmp_path / "gpu.json"
    report.write_text(json.dumps({"networks": networks}))
    traffic = ("--edits-per-s", "50", "--p95-s", "1", "--outside-ms", "30", "--json")
    given = ("--step-ms", "1:20,8:60", "--steps", "10", "--prepare-ms", "10", "--finish-ms", "5")
    assert run(*traffic, "--bench", str(report)) == run(*traffic, *given)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--edits-per-s", "5", "--p95-s", "1"), "give --bench FILE"),
        (("--edits-per-s", "5", "--p95-s", "1", "--steps", "9", "--step-ms", "fast"), "1:21,8:60"),
        (("--edits-per-s", "0", "--p95-s", "1", "--steps", "9", "--step-ms", "1:9"), "more than 0"),
        (("--edits-per-s", "5", "--p95-s", "1", "--steps", "9", "--step-ms", "0:9"), "rows >= 1"),
        (("--edits-per-s", "5", "--p95-s", "1", "--steps", "999", "--step-ms", "1:9"), "--p95-s"),
    ],
)
def test_bad_input_is_one_clear_line(options: tuple[str, ...], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as refused:
        CliRunner().invoke(app, ["plan-capacity", *options], catch_exceptions=False)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_bench_report_is_named(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text("[]")
    with pytest.raises(InvalidRequest, match=r"wrong\.json is no report"):
        options = ["--edits-per-s", "5", "--p95-s", "1", "--bench", str(wrong)]
        CliRunner().invoke(app, ["plan-capacity", *options], catch_exceptions=False)
