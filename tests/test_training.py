"""Training end to end in miniature: a base, and a plugin that the engine serves."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

from service.engine.edit import Edit
from service.engine.engine import build_engine
from service.engine.updates import EditDone
from service.errors import UnknownPlugin
from service.images import Pixels
from service.models.backbone import Backbone
from service.models.output_stage import OutputStage
from service.models.plugin import Plugin
from service.plugin_manifest import OutputStageConfig, plugin_folder
from service.training import loop
from service.training.degradations import TASKS
from service.training.first_plugin import HalfUndone
from service.training.photos import CropSettings, PairDataset, find_photos, read_photos
from service.training.restorer import Restorer
from service.training.train_base import BaseRecipe, save_base, train_base
from service.training.train_plugin import (
    PluginRecipe,
    build_model,
    first_plugins,
    open_data,
    train_plugin,
)
from tests.tiny_base import BASE, write_tiny_base


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight smooth random pictures as PNG files of different sizes."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(8):
        coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        size = (64 + 8 * number, 72)
        picture = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"photo_{number}.png"), picture)
    return folder


@pytest.fixture
def base_recipe(photos: Path, tmp_path: Path) -> BaseRecipe:
    return BaseRecipe(
        images=photos,
        run_dir=tmp_path / "run",
        held_out=None,
        steps=20,
        batch_size=8,
        size=32,
        final_size=48,
        final_batch_size=4,
        lr=6e-4,
        warmup=5,
        channels=(32, 32),
        num_workers=0,
        mixed_precision="no",
        sheet_size=32,
    )


@pytest.fixture
def plugin_recipe(photos: Path, tmp_path: Path) -> PluginRecipe:
    write_tiny_base(tmp_path / "store")
    return PluginRecipe(
        name="brighten",
        images=photos,
        store=tmp_path / "store",
        run_dir=tmp_path / "run",
        title="Brighten a dark photo",
        example_instructions=("brighten this photo",),
        degradation="lowlight",
        base=BASE,
        steps=4,
        batch_size=2,
        size=32,
        stage_steps=0,
        tone_steps=4,
        mixed_precision="no",
        sheet_size=32,
    )


def test_a_folder_without_matching_photos_is_refused(photos: Path) -> None:
    assert len(find_photos(photos, "photo_*")) == 8
    assert [p.name for p in find_photos(photos, "*_3.png")] == ["photo_3.png"]
    with pytest.raises(FileNotFoundError, match=r"no image .* matches .*/face_\*"):
        find_photos(photos, "face_*")


def held_out_loss(model: Restorer, recipe: BaseRecipe) -> float:
    """Mean loss on pairs of another seed, at the same timesteps and noise for every model."""
    torch.manual_seed(1)
    pairs = PairDataset(
        read_photos(find_photos(recipe.images)),
        dict.fromkeys(TASKS, 1.0),
        CropSettings(size=recipe.size),
        seed=(99,),
    )
    with torch.no_grad():
        batches = islice(DataLoader(pairs, batch_size=16), 3)
        return float(sum(model(*batch) for batch in batches) / 3)


def test_a_plugin_is_trained_on_pairs_of_a_table(plugin_recipe: PluginRecipe, photos: Path) -> None:
    table = photos / "pairs.csv"
    for number in (0, 2):
        photo = cv2.imread(str(photos / f"photo_{number}.png"))
        cv2.imwrite(str(photos / f"dark_{number}.bmp"), photo // 2)
    table.write_text("input,target\ndark_0.bmp,photo_0.png\ndark_2.bmp,photo_2.png\n")
    manifest = train_plugin(replace(plugin_recipe, images=None, degradation="", pairs=table))
    folder = plugin_recipe.store / BASE / "plugins" / manifest.name
    assert "2 pairs of `pairs.csv`" in (folder / "README.md").read_text()
    assert (plugin_recipe.run_dir / "sheet_final.png").exists()


def test_training_a_base_lowers_the_loss_and_leaves_its_files(base_recipe: BaseRecipe) -> None:
    fresh = train_base(replace(base_recipe, steps=0, run_dir=base_recipe.run_dir / "fresh"))
    trained = train_base(base_recipe)
    assert held_out_loss(trained, base_recipe) < 0.98 * held_out_loss(fresh, base_recipe)
    written = {path.name for path in base_recipe.run_dir.iterdir()}
    assert written >= {"checkpoint.pt", "recipe.json", "sheet_final.png"}
    assert json.loads((base_recipe.run_dir / "recipe.json").read_text())["steps"] == 20


def test_a_longer_recipe_continues_the_run(base_recipe: BaseRecipe) -> None:
    checkpoint = base_recipe.run_dir / "checkpoint.pt"
    train_base(replace(base_recipe, steps=2, batch_size=2))
    before = torch.load(checkpoint, weights_only=True)
    train_base(replace(base_recipe, steps=3, batch_size=2))
    after = torch.load(checkpoint, weights_only=True)
    assert (before["step"], after["step"]) == (2, 3)
    # One step from there: far nearer than another start would be.
    name = "unet.conv_in.weight"
    assert 0 < (after["model"][name] - before["model"][name]).abs().max() < 4 * base_recipe.lr


def test_a_saved_base_serves_plugins_that_start_from_it(
    base_recipe: BaseRecipe, plugin_recipe: PluginRecipe
) -> None:
    model = train_base(replace(base_recipe, steps=1, batch_size=2))
    save_base(model, plugin_recipe.store / "other")
    known = build(replace(plugin_recipe, base="other", degradation="derain"))
    assert_close_to_half(known.tpbs["derain"].state_dict(), model.tpbs["derain"].state_dict())
    assert_close_to_half(known.scb.state_dict(), model.scb.state_dict())
    unheard = build(replace(plugin_recipe, base="other", degradation="unheard"))
    mean = torch.stack([tpb.layers[0].weight for tpb in model.tpbs.values()]).mean(0)
    torch.testing.assert_close(unheard.tpbs["unheard"].layers[0].weight, mean, atol=1e-3, rtol=0)


def assert_close_to_half(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-3, rtol=1e-3)


def run_engine(recipe: PluginRecipe, pixels: Pixels) -> Pixels:
    engine = build_engine(recipe.store, recipe.base, "cpu", max_batch_size=1, num_threads=1)
    engine.add(Edit("a", pixels, (recipe.name,)))
    while engine.has_work:
        for update in engine.step():
            if isinstance(update, EditDone):
                return update.pixels
    raise AssertionError("the edit did not end")


def test_a_trained_plugin_is_installed_and_runs(plugin_recipe: PluginRecipe) -> None:
    manifest = train_plugin(plugin_recipe)
    assert (manifest.name, manifest.base, manifest.start) == ("brighten", BASE, "image")
    assert manifest.output_skip and manifest.default_steps == 1
    pixels = cv2.imread(str(find_photos(plugin_recipe.images)[0]))[:48, :64]
    assert run_engine(plugin_recipe, pixels).shape == (48, 64, 3)


def test_the_engine_restores_as_the_trainers_own_sampler_does(plugin_recipe: PluginRecipe) -> None:
    plugin_recipe = replace(plugin_recipe, num_shifts=1)
    train_plugin(plugin_recipe)
    model = trained(plugin_recipe)
    pixels = cv2.imread(str(find_photos(plugin_recipe.images)[0]))[:64, :64]
    images = torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    levels = levels_of(model.restore(images, torch.tensor([0]), plugin_recipe.default_steps))
    difference = np.abs(levels - run_engine(plugin_recipe, pixels))
    assert difference.mean() < 1
    assert np.abs(levels - pixels).mean() > 5


def test_the_engine_refines_with_the_output_stage_as_training_does(
    plugin_recipe: PluginRecipe,
) -> None:
    recipe = replace(plugin_recipe, num_shifts=1, stage_steps=4, stage_pairs=4, tone_pairs=4)
    manifest = train_plugin(recipe)
    assert manifest.output_stage == OutputStageConfig(levels=True, mirrored=True)
    weights = load_file(
        plugin_folder(recipe.store, recipe.base, recipe.name) / "weights.safetensors"
    )
    stage = OutputStage(OutputStageConfig(levels=True, mirrored=True)).eval()
    stage.load_state_dict(
        {k.removeprefix("stage."): v for k, v in weights.items() if k.startswith("stage.")}
    )
    pixels = cv2.imread(str(find_photos(recipe.images)[0]))[:64, :64]
    images = torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    restored = trained(recipe).restore(images, torch.tensor([0]), recipe.default_steps)
    with torch.no_grad():
        levels = levels_of(stage(images, restored))
    change = np.abs(levels - levels_of(restored)).mean()
    assert np.abs(levels - run_engine(recipe, pixels)).mean() < 0.5 * change


def test_a_generation_plugin_sees_the_noise_of_its_seed(
    plugin_recipe: PluginRecipe,
) -> None:
    recipe = replace(plugin_recipe, degradation="rain", stage_steps=4, stage_pairs=4, tone_pairs=4)
    manifest = train_plugin(recipe)
    assert manifest.output_stage is not None and manifest.output_stage.noise
    pixels = cv2.imread(str(find_photos(recipe.images)[0]))[:64, :64]
    assert np.array_equal(run_engine(recipe, pixels), run_engine(recipe, pixels))
    assert run_engine(recipe, pixels).shape == (64, 64, 3)


def test_a_stage_that_goes_on_keeps_its_tone(plugin_recipe: PluginRecipe) -> None:
    recipe = replace(plugin_recipe, stage_steps=2, stage_pairs=4, tone_pairs=4)
    weights = plugin_folder(recipe.store, recipe.base, recipe.name) / "weights.safetensors"
    train_plugin(recipe)
    learned = load_file(weights)["stage.tone.head.weight"]
    train_plugin(replace(recipe, stage_steps=4))
    assert learned.abs().max() > 0
    assert torch.equal(load_file(weights)["stage.tone.head.weight"], learned)


def backbone_of(recipe: PluginRecipe) -> Backbone:
    return Backbone.load(recipe.store / recipe.base)


def build(recipe: PluginRecipe) -> Restorer:
    return build_model(recipe, backbone_of(recipe))


def levels_of(images: Tensor) -> np.ndarray:
    """The first of images in [-1, 1], as 0 to 255."""
    return ((images[0].permute(1, 2, 0).numpy() + 1) * 127.5).clip(0, 255)


def trained(recipe: PluginRecipe) -> Restorer:
    """The plugin at the end of its run, as it was saved: in half precision."""
    model = build(recipe)
    loop.run(model, lambda _: [], settings(recipe), recipe.run_dir, lambda *_: None)
    model.scb.half().float()
    model.tpbs.half().float()
    return model


def settings(recipe: PluginRecipe) -> loop.LoopSettings:
    return loop.LoopSettings(recipe.steps, recipe.lr, mixed_precision="no")


def test_only_the_plugin_is_trained(plugin_recipe: PluginRecipe) -> None:
    model = build(plugin_recipe)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainable = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"scb", "tpbs"}
    pairs = PairDataset(
        read_photos(find_photos(plugin_recipe.images)), {"lowlight": 1.0}, CropSettings(32), (0,)
    )
    batches = DataLoader(pairs, batch_size=2)
    loop.run(
        model, lambda _: batches, settings(plugin_recipe), plugin_recipe.run_dir, lambda *_: None
    )
    after = model.state_dict()
    changed = {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"scb", "tpbs"}


def test_fine_tuning_goes_on_from_the_installed_plugin(plugin_recipe: PluginRecipe) -> None:
    train_plugin(plugin_recipe)
    installed = Plugin.load(plugin_recipe.folder(plugin_recipe.name), backbone_of(plugin_recipe))
    model = build(replace(plugin_recipe, fine_tune=True))
    for ours, theirs in ((model.scb, installed.scb), (model.tpbs["lowlight"], installed.tpb)):
        for name, weights in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], weights)
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {
        "scb",
        "tpbs",
    }


def test_the_second_plugin_learns_from_what_the_first_leaves(plugin_recipe: PluginRecipe) -> None:
    train_plugin(replace(plugin_recipe, name="lowlight", default_steps=2, num_shifts=2))
    second = replace(plugin_recipe, name="restore", degradation="noise,lowlight+noise")
    first = first_plugins(second, backbone_of(second))
    assert list(first) == [1]
    crops = DataLoader(open_data(second).crops(CropSettings(32), (0,)), 8)
    plain, half_undone = next(iter(crops)), next(iter(HalfUndone(crops, first)))
    rows = plain[2] == 1
    assert 0 < rows.sum() < 8
    assert torch.equal(plain[0][~rows], half_undone[0][~rows])
    assert torch.equal(plain[1], half_undone[1])
    assert torch.equal(half_undone[0][rows], first[1].restore(plain[0][rows]))


def test_the_first_plugin_restores_as_the_engine_does(plugin_recipe: PluginRecipe) -> None:
    lowlight = replace(plugin_recipe, name="lowlight", default_steps=2, num_shifts=1)
    served = replace(lowlight, stage_steps=2, stage_pairs=2, tone_pairs=2)
    train_plugin(served)
    second = replace(plugin_recipe, name="restore", degradation="lowlight+noise")
    pixels = read_photos(find_photos(plugin_recipe.images))[0][:64, :64]
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    left = first_plugins(second, backbone_of(second))[0].restore(images)
    difference = np.abs(levels_of(left) - run_engine(served, pixels))
    assert difference.mean() < 1
    assert np.abs(levels_of(left) - pixels).mean() > 5


def test_a_mixture_needs_the_plugin_of_its_first_task(plugin_recipe: PluginRecipe) -> None:
    with pytest.raises(UnknownPlugin, match="lowlight"):
        train_plugin(replace(plugin_recipe, name="restore", degradation="lowlight+noise"))
