"""The loop that base and plugins share: schedule, average, checkpoints, resuming."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from service.training.ema import EMA
from service.training.loop import Batch, LoopSettings, learning_rate, run
from service.training.precision import fastest_precision


class Line(nn.Module):
    """Learns y = 2 x; `offset` is frozen, as a base is."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(1))
        self.offset = nn.Parameter(torch.ones(1), requires_grad=False)
        self.num_calls = 0

    def forward(self, inputs: Tensor, targets: Tensor, tasks: Tensor) -> Tensor:
        self.num_calls += 1
        return (self.slope * inputs - targets).square().mean()


def batches(first: int = 0) -> Iterator[Batch]:
    """Endless; batch number n is the same in every run.

    Gradients differ in size and are below the clipping norm, so what Adam remembers matters.
    """
    while True:
        x = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(first))
        x = x * (0.1 + 0.1 * (first % 3))
        yield x, 2 * x, torch.zeros(4, dtype=torch.long)
        first += 1


def settings(steps: int, checkpoint_every: int = 500) -> LoopSettings:
    return LoopSettings(
        steps, lr=0.05, warmup=2, checkpoint_every=checkpoint_every, mixed_precision="no"
    )


def draw(model: nn.Module, path: Path) -> None:
    path.write_bytes(b"")


def test_training_approaches_the_answer_and_leaves_frozen_weights(tmp_path: Path) -> None:
    model = Line()
    run(model, lambda _: batches(), settings(100), tmp_path, draw)
    assert model.num_calls == 100
    assert model.slope.item() == pytest.approx(2.0, abs=0.3)
    assert float(model.offset) == 1.0


def test_a_finished_run_has_a_checkpoint_a_sheet_and_averaged_weights(tmp_path: Path) -> None:
    model = Line()
    run(model, lambda _: batches(), settings(10), tmp_path, draw)
    assert (tmp_path / "sheet_final.png").exists()
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 10
    assert list(state["model"]) == ["slope"]
    assert torch.equal(model.slope.detach(), state["ema"]["slope"])
    assert not torch.equal(state["model"]["slope"], state["ema"]["slope"])


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    whole, first, second = Line(), Line(), Line()
    run(whole, lambda _: batches(), settings(8, checkpoint_every=3), tmp_path / "whole", draw)
    run(
        first,
        lambda _: islice(batches(), 4),
        settings(8, checkpoint_every=3),
        tmp_path / "cut",
        draw,
    )
    run(second, lambda _: batches(first=3), settings(8, checkpoint_every=3), tmp_path / "cut", draw)
    assert second.num_calls == 5
    assert torch.equal(second.slope, whole.slope)


def test_a_run_that_has_ended_trains_no_further(tmp_path: Path) -> None:
    first, again = Line(), Line()
    run(first, lambda _: batches(), settings(4), tmp_path, draw)
    run(again, lambda _: batches(), settings(4), tmp_path, draw)
    assert again.num_calls == 0
    assert torch.equal(again.slope, first.slope)


def test_sheets_are_drawn_with_the_averaged_weights(tmp_path: Path) -> None:
    drawn: dict[str, float] = {}

    def remember(model: Line, path: Path) -> None:
        drawn[path.name] = model.slope.item()

    often = LoopSettings(6, lr=0.05, warmup=2, sheet_every=3, mixed_precision="no")
    run(Line(), lambda _: batches(), often, tmp_path, remember)
    averaged = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["ema"]["slope"]
    assert list(drawn) == ["sheet_000003.png", "sheet_000006.png", "sheet_final.png"]
    assert drawn["sheet_000006.png"] == drawn["sheet_final.png"] == float(averaged)


def test_the_learning_rate_rises_holds_and_falls_to_zero() -> None:
    plan = LoopSettings(steps=1000, lr=0.1, warmup=100, decay_share=0.25)
    rates = [learning_rate(step, plan) for step in range(1001)]
    assert rates[0] == pytest.approx(0.001)
    assert rates[99:751] == [pytest.approx(0.1)] * 652
    assert all(b > a for a, b in zip(rates[:99], rates[1:100], strict=True))
    assert all(b < a for a, b in zip(rates[750:-1], rates[751:], strict=True))
    assert rates[875] == pytest.approx(0.05)
    assert rates[1000] == 0.0


def test_the_average_follows_the_weights_fast_at_first_and_slowly_later() -> None:
    model = Line()
    ema = EMA(model, decay=0.99)
    with torch.no_grad():
        model.slope.fill_(1.0)
    ema.update(model, step=0)
    assert float(ema.shadow["slope"]) == pytest.approx(0.9)
    with torch.no_grad():
        model.slope.fill_(1.9)
    ema.update(model, step=100_000)
    assert float(ema.shadow["slope"]) == pytest.approx(0.91)
    assert "offset" not in ema.shadow


def test_swapping_the_average_twice_changes_nothing() -> None:
    model = Line()
    ema = EMA(model, decay=0.99)
    with torch.no_grad():
        model.slope.fill_(3.0)
    ema.swap(model)
    assert (model.slope.item(), ema.shadow["slope"].item()) == (0.0, 3.0)
    ema.swap(model)
    assert (model.slope.item(), ema.shadow["slope"].item()) == (3.0, 0.0)


def test_an_average_comes_back_from_its_state() -> None:
    model = Line()
    ema, restored = EMA(model, decay=0.99), EMA(model, decay=0.99)
    with torch.no_grad():
        model.slope.fill_(3.0)
    ema.update(model, step=5)
    restored.load_state_dict(ema.state_dict())
    assert torch.equal(restored.shadow["slope"], ema.shadow["slope"])


def test_curves_are_written_on_request(tmp_path: Path) -> None:
    run(Line(), lambda _: batches(), replace(settings(3), tensorboard=True), tmp_path, draw)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "lr", "gradient_norm"}
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]


def test_bf16_is_chosen_only_where_the_processor_multiplies_in_it() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    has_units = bool(flags & {"amx_bf16", "avx512_bf16"})
    if not torch.cuda.is_available():
        assert fastest_precision() == ("bf16" if has_units else "no")


TWO_PROCESSES = """
import sys
from dataclasses import replace
from pathlib import Path
from accelerate import PartialState
from service.training.loop import run
from tests.test_training_loop import Line, batches, draw, settings

model, folder, streams = Line(), Path(sys.argv[1]), []
def open_batches(stream):
    streams.append(stream)
    return batches(100 * stream)
run(model, open_batches, settings(6), folder, draw)
rank = PartialState().process_index
(folder / f"rank_{rank}").write_text(f"{streams[0]} {model.slope.item():.7f}")
"""


@pytest.mark.full
@pytest.mark.timeout(300)
def test_two_processes_see_different_data_and_learn_the_same(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(TWO_PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(
        [*launch, str(script), str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = ((tmp_path / f"rank_{rank}").read_text().split() for rank in (0, 1))
    assert first[0] == "0" and second[0] == "1"
    assert first[1] == second[1]


def test_one_process_trains_in_two_precisions(tmp_path: Path) -> None:
    """As a plugin and its output stage do where bf16 is the fastest."""
    for precision in ("bf16", "no"):
        model = Line()
        in_precision = replace(settings(3), mixed_precision=precision)
        run(model, lambda _: batches(), in_precision, tmp_path / precision, draw)
        assert model.num_calls == 3
