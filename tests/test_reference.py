"""The reference preset does what the plugins' authors do: against a plain loop of library parts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import CLIPImageProcessorPil, CLIPTokenizer

from service.engine.edit import Edit
from service.engine.engine import Engine, build_engine
from service.engine.model_runner import ModelRunner
from service.engine.preset import REFERENCE, REFERENCE_DEMO, Preset
from service.engine.updates import EditDone, EditFailed, StepDone
from service.images import Pixels
from service.models.denoiser import denoise
from service.plugin_import import import_released
from service.selector.released import NULL, ReleasedPlanner, load_released_planner
from tests.released_tree import (
    IMAGE_SIZE,
    PNDM,
    TOKENIZER,
    Released,
    build_released,
    write_released,
)

# diffusers' scheduler makes numpy arrays of tensors in a way that numpy will not take for long.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

BASE = "sd-tiny"
TASKS = ("desnow", "lowlight", "derain")  # as the tree was built; they run in the demo's order
SIDE = 40
FACTOR = 4  # of the tiny VAE
TOLERANCE_LEVELS = 1


@pytest.fixture(scope="module")
def made() -> Released:
    return build_released(3, TASKS)


@pytest.fixture(scope="module")
def store(made: Released, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released")
    write_released(folder / "tree", made)
    import_released(folder / "tree", folder / "store", BASE)
    return folder / "store"


@pytest.fixture(scope="module")
def engine(store: Path) -> Engine:
    return build_engine(store, BASE, "cpu", 4, num_threads=1, preset="reference")


@pytest.fixture(scope="module")
def planner(store: Path) -> ReleasedPlanner:
    return load_released_planner(store, BASE, "cpu")


def under(engine: Engine, preset: Preset) -> Engine:
    """Another preset on the same networks."""
    return Engine(ModelRunner(engine.backbone, engine.runner.store, preset=preset), 4)


def photo(seed: int, height: int, width: int) -> Pixels:
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def run(engine: Engine, edit: Edit) -> tuple[Pixels, list[int]]:
    """The result, and how many steps each task took."""
    engine.add(edit)
    steps, result = {}, None
    while engine.has_work:
        for update in engine.step():
            assert not isinstance(update, EditFailed), update
            if isinstance(update, StepDone):
                steps[update.progress.task] = update.progress.num_steps
            elif isinstance(update, EditDone):
                result = update.pixels
    assert result is not None
    return result, list(steps.values())


class PlainLoop:
    """infer.py and demo.py as FORMAT describes them, with the libraries' own parts."""

    def __init__(self, made: Released) -> None:
        self.made = made
        size = {"shortest_edge": IMAGE_SIZE}
        self.processor = CLIPImageProcessorPil(size=size, crop_size=IMAGE_SIZE)

    def clip(self, pixels: Pixels) -> Tensor:
        values = self.processor(pixels, return_tensors="pt")["pixel_values"]
        output = self.made.clip.vision_model(values, output_hidden_states=True)
        return output.hidden_states[-1][:, 1:]

    def run(
        self, pixels: Pixels, features: Tensor, task: str, steps: int, seed: int, is_noise: bool
    ) -> Pixels:
        """One task on a picture that has its size already."""
        image = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None] / 255 * 2 - 1
        vae, tokens = self.made.vae, self.made.tpbs[task](features)
        cond = vae.encode(image).latent_dist.mean * vae.config.scaling_factor
        scheduler = UniPCMultistepScheduler.from_config(PNDM, final_sigmas_type="sigma_min")
        scheduler.set_timesteps(steps)
        noise = torch.randn(cond.shape, generator=torch.Generator().manual_seed(seed))
        latents = noise
        for t in scheduler.timesteps:
            if not is_noise and t >= 960:
                latents = scheduler.add_noise(cond, noise, t[None])
            residuals = self.made.scbs[task](cond, t[None], tokens).residuals
            output = denoise(self.made.unet, latents, t[None], tokens, residuals, None)
            latents = scheduler.step(output, t, latents).prev_sample
        decoded = vae.decode(latents / vae.config.scaling_factor).sample[0]
        unit = (decoded / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy()
        return (unit * 255).round().astype(np.uint8)


def two_resizes(pixels: Pixels, side: int, always: bool = False) -> Pixels:
    image = Image.fromarray(pixels)
    width, height = image.size
    if always or min(width, height) < side:
        if width < height:
            width, height = side, int((side / width) * height)
        else:
            width, height = int((side / height) * width), side
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    floored = (width - width % FACTOR, height - height % FACTOR)
    if floored != image.size:
        image = image.resize(floored, Image.Resampling.LANCZOS)
    return np.asarray(image)


def assert_close(found: Pixels, expected: Pixels) -> None:
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= TOLERANCE_LEVELS


@pytest.mark.parametrize(
    ("task", "steps", "height", "width"),
    [
        ("derain", 8, 30, 47),  # enlarged, then floored to the grid
        ("lowlight", 5, 44, 40),  # from noise
        ("derain", 30, 40, 41),  # noised anew at the second step
        ("desnow", 1, 49, 98),
    ],
)
@torch.inference_mode()
def test_one_task_is_that_of_a_plain_loop(
    engine: Engine, made: Released, task: str, steps: int, height: int, width: int
) -> None:
    pixels, loop = photo(steps, height, width), PlainLoop(made)
    found, _ = run(
        under(engine, replace(REFERENCE, min_side=SIDE)), Edit("a", pixels, (task,), steps, seed=5)
    )
    sized = two_resizes(pixels, SIDE)
    assert_close(found, loop.run(sized, loop.clip(pixels), task, steps, 5, task == "lowlight"))
    changed = np.abs(found.astype(int) - sized)
    assert changed.max() > 10  # or there would be nothing to compare


@torch.inference_mode()
def test_noising_anew_matters(engine: Engine) -> None:
    pixels = photo(1, 40, 40)
    once = under(engine, replace(REFERENCE, min_side=SIDE, renoise_from=None))
    anew = under(engine, replace(REFERENCE, min_side=SIDE))
    edit = Edit("a", pixels, ("derain",), 30, seed=5)
    assert np.abs(run(once, edit)[0].astype(int) - run(anew, edit)[0]).max() > 1


@torch.inference_mode()
def test_a_sequence_takes_three_steps_from_the_second_task_on_and_the_photos_own_prompts(
    engine: Engine, made: Released
) -> None:
    pixels, loop = photo(2, 60, 90), PlainLoop(made)
    demo = under(engine, replace(REFERENCE_DEMO, min_side=SIDE))
    found, steps = run(demo, Edit("a", pixels, ("derain", "lowlight"), 6, seed=9))
    assert steps == [6, 3]
    features = loop.clip(pixels)
    between = loop.run(
        two_resizes(pixels, SIDE, always=True), features, "derain", 6, 9, is_noise=False
    )
    # A rounding that flips between the two tasks is one level at the second's input.
    expected = loop.run(between, features, "lowlight", 3, 9, is_noise=True)
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 2 and (difference > 0).mean() <= 0.03


@torch.inference_mode()
def test_a_resumed_sequence_still_looks_at_the_photo(engine: Engine) -> None:
    pixels, plugins = photo(2, 60, 90), ("derain", "desnow")
    preset = under(engine, replace(REFERENCE, min_side=SIDE))
    whole, _ = run(preset, Edit("a", pixels, plugins, 2, seed=9))
    between, _ = run(preset, Edit("b", pixels, plugins[:1], 2, seed=9))
    edit = Edit("c", pixels, plugins, 2, seed=9, num_done=1, resumed=between)
    assert_close(run(preset, edit)[0], whole)


def test_by_default_a_small_photo_is_enlarged_for_the_base_and_comes_back_in_its_size(
    store: Path, engine: Engine
) -> None:
    preset = replace(Preset(), min_side=SIDE, renoise_from=960)
    pixels = photo(4, 20, 27)
    default = under(engine, preset)
    assert default.runner.fitted(pixels).shape == (40, 54, 3)
    assert run(default, Edit("a", pixels, ("derain",), 2))[0].shape == (20, 27, 3)
    assert build_engine(store, BASE, "cpu").runner.preset == Preset(512, renoise_from=960)


PROMPTS = ("remove the rain", "what time is it?", "brighten it; then remove the snow!", "a " * 90)


@pytest.mark.parametrize("prompt", PROMPTS)
@torch.inference_mode()
def test_scores_are_those_of_the_formula(
    planner: ReleasedPlanner, made: Released, prompt: str
) -> None:
    pixels, loop = photo(8, 33, 40), PlainLoop(made)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)

    def embedded(text: str) -> Tensor:
        length = 77
        ids = tokenizer(
            text, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        return made.text(input_ids=ids).last_hidden_state[0, int(ids[0].argmax())]

    order = ("derain", "desnow", "lowlight")  # the demo's
    features = loop.clip(pixels)
    pooled = [made.tpbs[task](features)[0].max(0).values for task in order]
    heads = {name: value.half().float() for name, value in made.heads.items()}
    v = torch.stack([*pooled, embedded(" ")]) @ heads["proj_v.weight"].T + heads["proj_v.bias"]
    q = embedded(prompt) @ heads["proj_t.weight"].T + heads["proj_t.bias"]
    expected = heads["logit_scale"].exp() * cosine_similarity(v, q[None])
    scores = planner.scorer.scores(prompt, planner.prompts(pixels))
    assert list(scores) == [*order, NULL]
    torch.testing.assert_close(torch.tensor(list(scores.values())), expected, atol=1e-4, rtol=0)
    plan = planner.plan(pixels, prompt)
    chosen = [name for name, score in zip(order, expected, strict=False) if score > 0]
    assert list(plan.runnable) == chosen
    assert plan.scores[NULL] == pytest.approx(
        max(float(expected[-1]), 0) if (expected > 0).any() else 1, abs=1e-4
    )


def test_an_empty_instruction_asks_for_nothing(planner: ReleasedPlanner) -> None:
    assert planner.plan(photo(1, 32, 32), " ").tasks == ()
