"""The load tests' contenders compute the same images, so that their speeds may be compared."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from loadtests.bench_bases import bench_base
from loadtests.contenders import Contenders, drain
from loadtests.goals import GOALS, Result, write_table
from loadtests.load_goals import arrivals
from service.images import Pixels

TOLERANCE_LEVELS = 1


@pytest.fixture(scope="module")
def contenders(tmp_path_factory: pytest.TempPathFactory) -> Contenders:
    folder = tmp_path_factory.mktemp("store")
    base = replace(bench_base("tiny", folder), steps=5)
    return Contenders(base, torch.device("cpu"), folder, compiles=False)


# diffusers' UniPC itself uses a numpy call that is going away.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_reference_loop_and_diffusers_give_the_engines_images(contenders: Contenders) -> None:
    edits = contenders.edits(4, num_plugins=2)
    done = drain(contenders.engine(), edits)
    assert np.abs(done["0"].astype(int) - done["1"]).max() > 10 * TOLERANCE_LEVELS
    for others in (contenders.reference.run(edits), contenders.diffusers.run(edits)):
        for edit, image in zip(edits, others, strict=True):
            assert most_levels(done[edit.id], image) <= TOLERANCE_LEVELS


def most_levels(a: Pixels, b: Pixels) -> int:
    return int(np.abs(a.astype(int) - b).max())


def test_a_load_of_one_asks_for_every_slot() -> None:
    times = arrivals(1.0, steps=20, seed=0)
    assert times == sorted(times)
    assert len(times) * 20 / times[-1] == pytest.approx(8, rel=0.3)


def test_verdicts_know_the_sense_of_a_goal() -> None:
    assert Result("G1", 2.6).verdict("tiny").endswith("holds")
    assert Result("G1", 2.4).verdict("tiny").endswith("MISSED")
    assert Result("G8", 1.1).verdict("tiny").endswith("MISSED")
    assert Result("D1", 1.0).verdict("tiny") == ""
    assert set(GOALS) >= {"G1", "G2", "G3", "G4", "G5", "G7", "G8", "G9", "G10"}


def test_a_table_replaces_the_one_before_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- goals -->\nold\n<!-- /goals -->\nbelow\n")
    for value in ("1", "2"):
        write_table(page, "goals", ["goal", "value"], [["G1", value]])
    table = "| goal | value |\n| --- | --- |\n| G1 | 2 |\n"
    assert page.read_text() == f"above\n<!-- goals -->\n{table}<!-- /goals -->\nbelow\n"


@pytest.mark.full
@pytest.mark.timeout(600)
def test_the_gpu_benchmark_runs_on_a_cpu_in_its_reduced_form(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadtests.gpu_bench", "--base", "tiny", "--out", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = tmp_path.glob("*-tiny.json")
    report = json.loads(path.read_text())
    assert set(report["throughput"]["edits_per_s"]) == {"1", "2", "8"}
    for section in ("matmul", "latency", "networks"):
        assert isinstance(report[section], dict), report[section]
