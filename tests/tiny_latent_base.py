"""A base of Stable Diffusion's classes (AutoencoderKL, epsilon, noise start) with tiny widths."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModel

from service.models.plugin import save_plugin
from service.models.scb import SCB, SCBConfig
from service.models.tpb import TPB
from service.plugin_manifest import PluginManifest, plugin_folder

BASE = "latent"
VISION_WIDTH = 32
CROSS_ATTENTION_DIM = 24


def write_latent_base(store: Path) -> None:
    torch.manual_seed(0)
    folder = store / BASE
    build_vae().save_pretrained(folder / "vae")
    build_unet().save_pretrained(folder / "unet")
    CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=VISION_WIDTH,
            intermediate_size=2 * VISION_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
        )
    ).save_pretrained(folder / "image_encoder")
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="trailing",
        clip_sample=False,
        prediction_type="epsilon",
    ).save_pretrained(folder / "scheduler")
    write_preprocessor(folder / "feature_extractor", 32)


def write_preprocessor(folder: Path, size: int) -> None:
    folder.mkdir(parents=True)
    config = {
        "crop_size": size,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(config))


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.5,
    )


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=2,
        cross_attention_dim=CROSS_ATTENTION_DIM,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def write_latent_plugin(
    store: Path, name: str, seed: int, output_skip: bool = False
) -> PluginManifest:
    """A plugin whose residuals are not zero; output_skip is wrong on this base."""
    torch.manual_seed(seed)
    scb = SCB(SCBConfig.from_unet(dict(build_unet().config), output_skip))
    for conv in scb.taps:
        torch.nn.init.normal_(conv.weight, std=0.3)
    manifest = PluginManifest(
        name=name,
        title=f"Task {name}",
        version="1.0.0",
        base=BASE,
        example_instructions=(f"please {name} this",),
        default_steps=4,
        start="noise",
        output_skip=output_skip,
        licence="Apache-2.0",
        digest="sha256:" + 64 * "0",
    )
    tpb = TPB(VISION_WIDTH, CROSS_ATTENTION_DIM)
    return save_plugin(plugin_folder(store, BASE, name), tpb, scb, manifest, "")
