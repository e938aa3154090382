"""On CUDA: graphs, streams and half precision change no result. Without one these are skipped."""

from pathlib import Path

import numpy as np
import pytest
import torch

from service.engine.edit import Edit
from service.engine.engine import Engine, build_engine
from service.engine.model_runner import ModelRunner
from service.engine.updates import EditDone, EditFailed, Update
from service.images import Pixels
from service.models.attention_choice import fastest_attention
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

PLUGINS = ("derain", "desnow", "dehaze")
TOLERANCE_LEVELS = 2  # half precision, and other kernels for other batch sizes


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    write_tiny_base(folder)
    for seed, name in enumerate(PLUGINS):
        write_tiny_plugin(folder, name, seed)
    return folder


@pytest.fixture(scope="module")
def engine(store: Path) -> Engine:
    return build_engine(store, BASE, "cuda", max_batch_size=8)


def edit(number: int, steps: int = 6) -> Edit:
    pixels = np.random.default_rng(number).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    return Edit(str(number), pixels, (PLUGINS[number % 3],), steps, seed=number)


def drain(engine: Engine, *edits: Edit) -> dict[str, Pixels]:
    for one in edits:
        engine.add(one)
    updates: list[Update] = []
    while engine.has_work:
        updates += engine.step()
    assert not [u for u in updates if isinstance(u, EditFailed)]
    return {u.id: u.pixels for u in updates if isinstance(u, EditDone)}


def assert_close(a: Pixels, b: Pixels) -> None:
    assert np.abs(a.astype(int) - b).max() <= TOLERANCE_LEVELS


def test_graph_replays_equal_eager_steps(engine: Engine) -> None:
    runner = engine.runner
    eager = Engine(ModelRunner(runner.backbone, runner.store, pads_batches=False), 8)
    edits = [edit(number) for number in range(3)]
    for _ in range(2):  # the first captures, the second replays from the start
        replayed = drain(engine, *edits)
    plain = drain(eager, *edits)
    for name, image in replayed.items():
        assert_close(image, plain[name])


def test_cuda_gives_what_the_cpu_gives(engine: Engine, store: Path) -> None:
    on_cpu = build_engine(store, BASE, "cpu", max_batch_size=8, num_threads=1)
    expected = drain(on_cpu, edit(0))["0"]
    difference = np.abs(drain(engine, edit(0))["0"].astype(int) - expected)
    assert difference.mean() < 1.0


def test_bits_do_not_depend_on_who_shares_a_batch_of_one_size(engine: Engine) -> None:
    expected = drain(engine, edit(0), edit(1), edit(2))["0"]
    again = drain(engine, edit(4), edit(5, steps=8), edit(0), edit(7, steps=7))["0"]
    assert (again == expected).all()


def test_edits_that_join_and_leave_at_full_speed_stay_themselves(engine: Engine) -> None:
    alone = {str(n): drain(engine, edit(n))[str(n)] for n in range(12)}
    found: dict[str, Pixels] = {}
    for number in range(24):  # each joins a step after the one before; every third is aborted
        engine.add(edit(number % 12))
        updates = engine.step()
        if number % 3 == 2:
            engine.abort(str(number % 12))
        found |= {u.id: u.pixels for u in updates if isinstance(u, EditDone)}
    found |= drain(engine)
    assert len(found) >= 8
    for name, image in found.items():
        assert_close(image, alone[name])


def test_an_attention_kernel_is_chosen_that_computes_attention() -> None:
    attend = fastest_attention(torch.device("cuda"), torch.float16)
    query, key, value = (torch.randn(2, 8, n, 40, device="cuda").half() for n in (64, 16, 16))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(attend(query, key, value), expected, atol=2e-3, rtol=2e-3)
