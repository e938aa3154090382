"""Parity with what the authors' own code produced (tests/golden: a part; GOLDEN_DIR: a whole set).

A fresh clone checks codec, SCB, sampler, tokenizer, sizes and the score rule on golden tensors, and
UNet, CLIP, TPB and the selector against library parts (test_reference.py). With GOLDEN_DIR every
tensor and picture of that set is made by golden_dump.py and compared.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTokenizer

from service.engine.preset import REFERENCE, REFERENCE_DEMO, grid_size, min_side_size
from service.engine.sampling import NoiseSchedule, SamplerState, add_noise, update
from service.models.architectures import load_vae, read_config
from service.models.released import read_released_scb
from service.models.scb import SCB
from service.selector.released import NULL, decided
from tests.golden_dump import Dump, write

PART = Path(__file__).parent / "golden"
META = json.loads((PART / "meta.json").read_text())
RUN = "infer_B_dehaze_8"
WHOLE = Path(os.environ["GOLDEN_DIR"]) if os.environ.get("GOLDEN_DIR") else None


def compare(found: Tensor, expected: Tensor, tolerance: Mapping[str, Any], name: str) -> None:
    assert found.shape == expected.shape, name
    difference = (found.double() - expected.double()).abs()
    if tolerance["kind"] == "uint8":
        assert difference.max() <= tolerance["max_abs"], name
        share = (difference > 0).double().mean()
        assert share <= tolerance["max_fraction_different"], name
    else:
        most = 0.0 if tolerance["kind"] == "exact" else tolerance["atol"]
        assert bool((difference <= most).all()), f"{name}: {float(difference.max()):.3g} > {most}"


def check(run: str, name: str, found: Tensor, golden: Mapping[str, Tensor]) -> None:
    compare(found, golden[name], META["files"][run]["tensors"][name], f"{run}: {name}")


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(PART / f"{RUN}.safetensors")


@pytest.fixture(scope="module")
def schedule() -> NoiseSchedule:
    return NoiseSchedule.from_config(read_config(PART / "scheduler", "scheduler_config.json"))


@torch.inference_mode()
def test_the_codec_gives_the_mean_and_decodes_the_last_latents(golden: dict[str, Tensor]) -> None:
    vae = load_vae(PART / "vae", torch.float32)
    pixels = np.asarray(Image.open(PART / "B_64x64.png").convert("RGB"))
    image = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    check(RUN, "vae_input", image, golden)
    posterior = vae.encode(image).latent_dist
    check(RUN, "moments", posterior.parameters, golden)
    check(RUN, "scb_cond", posterior.mode() * vae.config.scaling_factor, golden)
    decoded = vae.decode(golden["latents.07"] / vae.config.scaling_factor).sample
    check(RUN, "decoded", decoded, golden)
    unit = (decoded[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0)
    check(RUN, "final_uint8", (unit * 255).round().to(torch.uint8), golden)


@torch.inference_mode()
def test_scb_gives_the_residuals_of_every_step_in_one_call(golden: dict[str, Tensor]) -> None:
    state, config = read_released_scb(PART / "dehaze" / "scb")
    scb = SCB(config)
    scb.load_state_dict(state)
    steps = golden["timesteps"]
    count = len(steps)
    output = scb(
        golden["scb_cond"].repeat(count, 1, 1, 1), steps, golden["tokens"].expand(count, -1, -1)
    )
    for step in range(count):
        for k, residual in enumerate(output.residuals):
            check(RUN, f"scb.{step:02d}.{k}", residual[step : step + 1], golden)


def test_a_trajectory_follows_the_reference_given_its_model_outputs(
    golden: dict[str, Tensor], schedule: NoiseSchedule
) -> None:
    table = schedule.table(8)
    seed = META["files"][RUN]["made_by"]["seed"]
    noise = torch.randn(golden["noise"].shape, generator=torch.Generator().manual_seed(seed))
    check(RUN, "noise", noise, golden)
    check(RUN, "timesteps", table.timesteps, golden)
    renoised = table.renoised(golden["scb_cond"], noise, REFERENCE.renoise_from)
    assert list(renoised) == [0] and int(golden["renoised_at.00"]) == table.timesteps[0]
    check(RUN, "latents_initial", renoised[0], golden)
    state = SamplerState.start(renoised[0])
    for step in range(8):
        state = update(state, golden[f"eps.{step:02d}"], table.rows[step : step + 1])
        check(RUN, f"latents.{step:02d}", state.x, golden)


def test_the_scheduler_alone(schedule: NoiseSchedule) -> None:
    given = load_file(PART / "unipc.safetensors")
    check("unipc", "alphas_cumprod", torch.from_numpy(schedule.alphas_cumprod).float(), given)
    for name in given:
        kind, _, number = name.partition(".")
        if kind == "timesteps":
            check("unipc", name, schedule.table(int(number)).timesteps, given)
        elif kind == "add_noise":
            alpha = float(schedule.alphas_cumprod[int(number.removeprefix("t"))])
            check("unipc", name, add_noise(given["x0"], given["noise"], alpha), given)
        elif kind == "fixed_eps_latents":
            outputs, state = given[f"fixed_eps.{number}"], SamplerState.start(given["noise"])
            samples = []
            for row, output in zip(schedule.table(len(outputs)).rows, outputs, strict=True):
                state = update(state, output, row[None])
                samples.append(state.x)
            check("unipc", name, torch.stack(samples), given)


@pytest.mark.parametrize("times", [(40, [999, 974]), (25, [999]), (60, [999, 982, 966])])
def test_the_condition_is_noised_anew_while_t_is_at_least_960(
    schedule: NoiseSchedule, times: tuple[int, list[int]]
) -> None:
    table = schedule.table(times[0])
    steps = table.renoised(torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2), 960)
    assert [int(table.timesteps[step]) for step in steps] == times[1]


@pytest.mark.parametrize("row", json.loads((PART / "resize_rules.json").read_text()))
def test_sizes_are_those_of_the_authors_lines(row: dict[str, Any]) -> None:
    width, height = row["input_wh"]

    def sizes(always: bool, side: int) -> tuple[list[int], list[int]]:
        resized = min_side_size(width, height, side, always)
        return [*resized], [*grid_size(*resized, 8)]

    assert sizes(False, 512) == (row["infer_resized_wh"], row["infer_network_wh"])
    for side in (512, 640):
        expected = row[f"demo_res{side}_resized_wh"], row[f"demo_res{side}_network_wh"]
        assert sizes(True, side) == expected
    assert (REFERENCE.min_side, REFERENCE.always_min_side) == (512, False)
    assert (REFERENCE_DEMO.min_side, REFERENCE_DEMO.always_min_side) == (512, True)


@pytest.mark.parametrize("row", META["token_ids"])
def test_a_prompt_has_the_reference_token_ids(row: dict[str, Any]) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(PART / "tokenizer")
    ids = tokenizer(row["prompt"], padding="max_length", max_length=77, truncation=True).input_ids
    assert ids == row["ids"]


@pytest.mark.parametrize("row", META["scores"])
def test_the_score_rule_with_the_null_class(row: dict[str, Any]) -> None:
    scores = decided(dict(zip(row["labels"], row["raw"], strict=True)))
    assert list(scores) == row["labels"] and row["labels"][-1] == NULL
    assert list(scores.values()) == pytest.approx(row["final"])
    assert [name for name, score in scores.items() if score > 0] == row["selected"]


whole_set = pytest.mark.skipif(WHOLE is None, reason="GOLDEN_DIR names no golden set")
RUNS = json.loads((WHOLE / "meta.json").read_text())["files"] if WHOLE else {"": {}}


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dump]:
    assert WHOLE is not None
    store = tmp_path_factory.mktemp("golden_store")
    yield Dump(WHOLE / "tree", WHOLE / "images", WHOLE / "meta.json", store)


@whole_set
@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_every_tensor_and_picture_of_the_whole_set(dump: Dump, name: str, tmp_path: Path) -> None:
    assert WHOLE is not None
    write(dump, name, tmp_path)
    found = load_file(tmp_path / f"{name}.safetensors")
    golden = load_file(WHOLE / RUNS[name]["path"])
    for key, entry in RUNS[name]["tensors"].items():
        compare(found[key], golden[key], entry["tolerance"], f"{name}: {key}")
    for picture in RUNS[name]["png"]:
        pair = (np.asarray(Image.open(folder / picture)) for folder in (tmp_path, WHOLE))
        a, b = (torch.tensor(pixels) for pixels in pair)
        tolerance = RUNS[name]["tensors"]["final_uint8"]["tolerance"]
        compare(a, b[:, -a.shape[1] :], tolerance, picture)  # infer.py: beside its input
