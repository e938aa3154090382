"""Bases to measure with: `tiny` and `sd15-random` have random weights, which speed does not mind.

`tiny` has Stable Diffusion's classes so small that calls cost more than arithmetic, as on an eager
GPU. `sd15-random` is Stable Diffusion 1.5 at full size. `nano` is the base that is shipped.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from service.models.backbone import Backbone, ImagePreprocessor
from service.models.plugin import save_plugin
from service.models.plugin_store import PluginStore
from service.models.scb import SCB, SCBConfig
from service.models.tpb import TPB
from service.plugin_manifest import PluginManifest, installed_plugins, plugin_folder

NUM_PLUGINS = 8
STEPS = 20
SCHEDULER = {
    "_class_name": "UniPCMultistepScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class BenchBase:
    """Float32 networks, and a store with NUM_PLUGINS plugins of them."""

    name: str
    store: Path
    side: int  # of the photos, in pixels
    steps: int
    plugins: tuple[str, ...]
    build: Callable[[torch.device], Backbone]  # a backbone of its own each time, in float32


def bench_base(name: str, folder: Path, shipped: Path = Path("plugins_store")) -> BenchBase:
    """`folder` is or becomes the store of a random base; ValueError for an unknown name."""
    if name == "nano":
        names = tuple(installed_plugins(shipped, "nano"))[:NUM_PLUGINS]
        return BenchBase(name, shipped, 256, 4, names, lambda d: _nano(shipped, d))
    if name not in SIZES:
        raise ValueError(f"base must be one of nano, {', '.join(SIZES)}")
    size = SIZES[name]
    plugins = tuple(f"task{number}" for number in range(NUM_PLUGINS))
    for seed, plugin in enumerate(plugins):
        if not plugin_folder(folder, name, plugin).is_dir():
            write_random_plugin(folder, name, plugin, seed)
    return BenchBase(name, folder, size.side, STEPS, plugins, lambda d: _random(name, size, d))


def serving_copy(backbone: Backbone) -> Backbone:
    """The same networks as Backbone.load would make them: half precision on CUDA."""
    dtype = torch.float16 if backbone.device.type == "cuda" else torch.float32
    parts = (backbone.vae, backbone.unet, backbone.image_encoder)
    # nn.Module's own to(): diffusers' prints a warning about modules that none of these have.
    vae, unet, encoder = (nn.Module.to(copy.deepcopy(part), dtype) for part in parts)
    return Backbone(
        backbone.name, vae, unet, encoder, backbone.preprocessor, backbone.scheduler_config,
        backbone.device,
    )  # fmt: skip


def loaded_store(base: BenchBase, backbone: Backbone) -> PluginStore:
    store = PluginStore(base.store, backbone)
    for name in base.plugins:
        store.get(name)
    return store


@dataclass(frozen=True)
class Size:
    """Configs of a base, and the side of the photos that it is measured with."""

    side: int
    unet: dict[str, Any]
    vae: dict[str, Any]
    vision: dict[str, Any]


SIZES = {
    "tiny": Size(
        side=64,
        unet=dict(
            block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=2,
            norm_num_groups=4,
        ),
        vae=dict(block_out_channels=(8, 8, 8, 8), norm_num_groups=4),
        vision=dict(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=64,
            patch_size=16,
        ),
    ),
    "sd15-random": Size(
        side=512,
        unet=dict(
            block_out_channels=(320, 640, 1280, 1280),
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            cross_attention_dim=768,
            attention_head_dim=8,
            norm_num_groups=32,
        ),
        vae=dict(block_out_channels=(128, 256, 512, 512), layers_per_block=2, norm_num_groups=32),
        vision=dict(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=224,
            patch_size=14,
        ),
    ),
}


def _nano(store: Path, device: torch.device) -> Backbone:
    loaded = Backbone.load(store / "nano", "cpu")
    return Backbone(
        loaded.name, loaded.vae, loaded.unet, loaded.image_encoder, loaded.preprocessor,
        loaded.scheduler_config, device,
    )  # fmt: skip


def _random(name: str, size: Size, device: torch.device) -> Backbone:
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(sample_size=size.side // 8, **size.unet)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            **size.vae,
        )
        encoder = CLIPVisionModel(CLIPVisionConfig(**size.vision))
    preprocessor = ImagePreprocessor(size.vision["image_size"], CLIP_MEAN, CLIP_STD)
    return Backbone(name, vae, unet, encoder, preprocessor, SCHEDULER, device)


def write_random_plugin(
    store: Path, base: str, name: str, seed: int, version: int = 0, folder: Path | None = None
) -> None:
    """A plugin of a random base whose residuals are not zero, in `folder` or its usual place."""
    torch.manual_seed(seed + 1000 * version)
    size = SIZES[base]
    config = {"out_channels": 4, "layers_per_block": 2, "num_attention_heads": None,
              "norm_eps": 1e-5, "only_cross_attention": False, **size.unet}  # fmt: skip
    scb = SCB(SCBConfig.from_unet(config, output_skip=False))
    for tap in scb.taps:
        nn.init.normal_(tap.weight, std=0.1)
    manifest = PluginManifest(
        name=name,
        title=f"Task {name}",
        version=f"1.0.{version}",
        base=base,
        example_instructions=(f"please {name} this",),
        default_steps=STEPS,
        start="noise",
        licence="Apache-2.0",
        digest="sha256:" + 64 * "0",
    )
    tpb = TPB(size.vision["hidden_size"], size.unet["cross_attention_dim"])
    save_plugin(folder or plugin_folder(store, base, name), tpb, scb, manifest, "")
