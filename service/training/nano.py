"""The nano architecture: the production base's classes in sizes that a laptop CPU can serve."""

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from transformers import CLIPVisionConfig, CLIPVisionModel

from service.models.codec import PatchCodec
from service.models.scb import SCB, SCBConfig
from service.models.tpb import TPB

VISION_WIDTH = 128
CROSS_ATTENTION_DIM = 128
# Stable Diffusion's betas, of which only the first, low-noise part is used: sampling starts from
# the condition with this much noise (docs/nano.md).
START_TIMESTEP = 100


@dataclass(frozen=True)
class NanoSize:
    """Widths of the UNet levels."""

    channels: tuple[int, ...] = (128, 192)


def build_unet(size: NanoSize) -> UNet2DConditionModel:
    levels = len(size.channels)
    unet = UNet2DConditionModel(
        sample_size=32,
        in_channels=192,
        out_channels=192,
        down_block_types=["CrossAttnDownBlock2D"] * levels,
        up_block_types=["CrossAttnUpBlock2D"] * levels,
        block_out_channels=size.channels,
        layers_per_block=1,
        cross_attention_dim=CROSS_ATTENTION_DIM,
        attention_head_dim=[c // 32 for c in size.channels],
        norm_num_groups=16,
        # Over the full grid self-attention would cost most of a 512-px edit; lower levels have it.
        only_cross_attention=[True] + [False] * (levels - 1),
    )
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.zeros_(unet.conv_out.bias)
    return unet


def build_image_encoder() -> CLIPVisionModel:
    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=VISION_WIDTH,
            intermediate_size=2 * VISION_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=64,
            patch_size=16,
        )
    )


def build_scb(unet: UNet2DConditionModel) -> SCB:
    return SCB(SCBConfig.from_unet(dict(unet.config), output_skip=True))


def build_tpb() -> TPB:
    return TPB(VISION_WIDTH, CROSS_ATTENTION_DIM)


def build_scheduler() -> DDIMScheduler:
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return DDIMScheduler(
        num_train_timesteps=START_TIMESTEP + 1,
        trained_betas=betas[: START_TIMESTEP + 1].tolist(),
        prediction_type="sample",
        timestep_spacing="trailing",
        set_alpha_to_one=True,
        clip_sample=False,
    )


def fit_codec(photos: list[NDArray[np.uint8]], seed: int = 0) -> PatchCodec:
    """The codec of 64 random 8x8 patches of every photo."""
    rng = np.random.default_rng(seed)
    patches = []
    for photo in photos:
        for _ in range(64):
            top = rng.integers(photo.shape[0] - 8)
            left = rng.integers(photo.shape[1] - 8)
            patches.append(photo[top : top + 8, left : left + 8])
    stack = torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).float()
    codec: PatchCodec = PatchCodec.fit(stack / 127.5 - 1)
    return codec
