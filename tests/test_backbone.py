"""The frozen base: two codecs, one code path; its CLIP input equals transformers' own."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor
from transformers import CLIPImageProcessorPil

from service.engine.edit import Edit
from service.engine.engine import Engine, build_engine
from service.engine.updates import EditDone
from service.images import Pixels
from service.models.backbone import Backbone, ImagePreprocessor, pick_device
from service.models.denoiser import denoise
from service.models.plugin import Plugin
from service.plugin_manifest import plugin_folder
from tests import tiny_base, tiny_latent_base


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    tiny_base.write_tiny_base(folder)
    tiny_latent_base.write_latent_base(folder)
    tiny_latent_base.write_latent_plugin(folder, "derain", seed=1)
    tiny_latent_base.write_latent_plugin(folder, "desnow", seed=2)
    return folder


@pytest.fixture(scope="module")
def patch_base(store: Path) -> Backbone:
    return Backbone.load(store / tiny_base.BASE)


@pytest.fixture(scope="module")
def latent_base(store: Path) -> Backbone:
    return Backbone.load(store / tiny_latent_base.BASE)


def photo(seed: int, height: int, width: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_sides_are_multiples_of_both_networks_factors(
    patch_base: Backbone, latent_base: Backbone
) -> None:
    # Patches of 8 px and a UNet of two levels; a VAE of three levels and a UNet of two.
    assert (patch_base.pixel_multiple, latent_base.pixel_multiple) == (16, 8)


def test_latents_have_the_shape_that_the_unet_takes(
    patch_base: Backbone, latent_base: Backbone
) -> None:
    assert patch_base.encode(images(1, 3, 32, 48)).shape == (1, 192, 4, 6)
    assert latent_base.encode(images(1, 3, 32, 48)).shape == (1, 4, 8, 12)


def test_latents_are_scaled_as_the_vae_asks(latent_base: Backbone) -> None:
    x = images(1, 3, 16, 16)
    with torch.no_grad():
        mode = latent_base.vae.encode(x).latent_dist.mode()
        decoded = latent_base.vae.decode(mode).sample
    torch.testing.assert_close(latent_base.encode(x), 0.5 * mode)
    torch.testing.assert_close(latent_base.decode(0.5 * mode), decoded)


def test_every_weight_is_frozen(latent_base: Backbone) -> None:
    for network in (latent_base.vae, latent_base.unet, latent_base.image_encoder):
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())


def test_image_features_are_patch_tokens_of_each_image(latent_base: Backbone) -> None:
    one, two = photo(1, 40, 50), photo(2, 64, 32)
    both = latent_base.image_features([one, two])
    assert both.shape == (2, 4, 32)
    torch.testing.assert_close(both[1:], latent_base.image_features([two]))


@pytest.mark.parametrize(
    ("height", "width"), [(64, 64), (224, 224), (50, 77), (300, 200), (201, 333), (33, 500)]
)
def test_clip_input_equals_that_of_transformers(height: int, width: int) -> None:
    reference = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size=64)
    ours = ImagePreprocessor(64, tuple(reference.image_mean), tuple(reference.image_std))
    pixels = photo(0, height, width)
    expected = reference(pixels, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(ours(pixels), expected, atol=1e-6, rtol=0)


def test_a_folder_that_lacks_a_part_is_refused_by_its_name(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store / tiny_latent_base.BASE, tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / "scheduler")
    with pytest.raises(FileNotFoundError, match="scheduler/ is missing"):
        Backbone.load(tmp_path / "broken")


def test_auto_picks_a_device_that_exists() -> None:
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")


def run(engine: Engine, *edits: Edit) -> dict[str, Pixels]:
    for edit in edits:
        engine.add(edit)
    done = {}
    while engine.has_work:
        done |= {u.id: u.pixels for u in engine.step() if isinstance(u, EditDone)}
    return done


@torch.inference_mode()
def plain_loop(backbone: Backbone, plugin: Plugin, pixels: Pixels, steps: int) -> Pixels:
    """The paper's inference as one reads it: diffusers' scheduler, one image, no batching."""
    scheduler = DDIMScheduler.from_config(backbone.scheduler_config)
    scheduler.set_timesteps(steps)
    cond = backbone.encode(torch.from_numpy(pixels / np.float32(127.5) - 1).permute(2, 0, 1)[None])
    tokens = plugin.tpb(backbone.image_features([pixels]))
    z = torch.randn(cond.shape, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        scb = plugin.scb(cond, t[None], tokens)
        output = denoise(backbone.unet, z, t[None], tokens, scb.residuals, None)
        z = scheduler.step(output, t, z).prev_sample
    unit = (backbone.decode(z)[0] / 2 + 0.5).clamp(0, 1)
    return (unit * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def test_an_epsilon_base_with_a_vae_runs_edits_as_a_plain_loop_does(
    store: Path, latent_base: Backbone
) -> None:
    engine = build_engine(store, tiny_latent_base.BASE, "cpu", max_batch_size=4, num_threads=1)
    pixels = photo(3, 32, 48)
    done = run(engine, Edit("a", pixels, ("derain",)), Edit("b", pixels, ("desnow",)))
    for edit_id, name in (("a", "derain"), ("b", "desnow")):
        plugin = Plugin.load(plugin_folder(store, tiny_latent_base.BASE, name), latent_base)
        expected = plain_loop(latent_base, plugin, pixels, steps=4)
        assert np.abs(done[edit_id].astype(int) - expected).max() <= 1
    assert np.abs(done["a"].astype(int) - done["b"]).max() > 1


def test_an_image_that_does_not_fit_the_grid_keeps_its_size(store: Path) -> None:
    engine = build_engine(store, tiny_latent_base.BASE, "cpu", max_batch_size=4, num_threads=1)
    assert run(engine, Edit("a", photo(1, 19, 33), ("derain",)))["a"].shape == (19, 33, 3)
