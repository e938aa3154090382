"""A plugin trained on a base of Stable Diffusion's kind: the base stays as it is, edits run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from service.engine.edit import Edit
from service.engine.engine import build_engine
from service.engine.updates import EditDone
from service.models.backbone import Backbone
from service.plugin_import import import_released
from service.plugin_manifest import WEIGHTS, plugin_folder
from service.training.train_plugin import PluginRecipe, build_model, defaults_of, train_plugin
from tests.released_tree import build_released, write_released

BASE = "sd-tiny"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latent")
    write_released(folder / "tree", build_released(3, ("derain",)))
    import_released(folder / "tree", folder / "store", BASE)
    (folder / "photos").mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (64, 72, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{seed}.png")
    return folder / "store"


def recipe_for(store: Path, run_dir: Path) -> PluginRecipe:
    small = {"size": 48, "sheet_size": 48, "steps": 3, "batch_size": 2, "mixed_precision": "no"}
    return PluginRecipe(
        name="dehaze",
        images=store.parent / "photos",
        store=store,
        run_dir=run_dir,
        title="Remove haze",
        example_instructions=("remove the haze",),
        base=BASE,
        **{**defaults_of(store / BASE), **small, "default_steps": 2, "lr": 1e-2, "warmup": 1},
    )


def test_the_papers_settings_are_the_defaults_of_such_a_base(store: Path) -> None:
    defaults = defaults_of(store / BASE)
    assert (defaults["lr"], defaults["size"], defaults["stage_steps"]) == (1e-5, 512, 0)
    assert defaults_of(Path(__file__).parent.parent / "plugins_store" / "nano") == {}


def test_the_loss_is_that_of_the_predicted_noise_and_reaches_the_plugin_alone(
    store: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    recipe = recipe_for(store, tmp_path)
    model = build_model(recipe, Backbone.load(recipe.store / recipe.base))
    images = torch.rand(2, 3, 48, 48) * 2 - 1
    loss = model(images, images.flip(0), torch.zeros(2, dtype=torch.long))
    loss.backward()
    assert 0.1 < float(loss.detach()) < 10  # noise has unit variance
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {"scb", "tpbs"}


@pytest.mark.slow
def test_a_trained_plugin_is_installed_and_edits_while_the_base_has_not_changed(
    store: Path, tmp_path: Path
) -> None:
    source = store.parent / "tree" / "stable-diffusion" / "unet" / "diffusion_pytorch_model.bin"
    before = source.read_bytes()
    manifest = train_plugin(recipe_for(store, tmp_path / "run"))
    assert (manifest.base, manifest.output_skip, manifest.output_stage) == (BASE, False, None)
    taps = load_file(plugin_folder(store, BASE, "dehaze") / WEIGHTS)["scb.taps.1.weight"]
    assert taps.abs().max() > 0  # they start at zero
    assert source.read_bytes() == before
    engine = build_engine(store, BASE, "cpu", 1, num_threads=1)
    engine.runner.preset = engine.runner.preset.__class__()  # small photos stay small
    pixels = np.zeros((40, 48, 3), np.uint8)
    engine.add(Edit("a", pixels, ("dehaze",)))
    updates = [update for _ in range(2) for update in engine.step()]
    done = [update for update in updates if isinstance(update, EditDone)]
    assert done[0].pixels.shape == pixels.shape
