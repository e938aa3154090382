"""SCB, the Spatial Complement Branch: condition latent, time, tokens -> residuals F^s (eq. 2).

It does not read the noisy latent, so its output for every step of a request can be computed ahead.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_2d_blocks import CrossAttnDownBlock2D
from torch import Tensor, nn


@dataclass(frozen=True)
class SCBConfig:
    """Shape of an SCB. It mirrors the first down block of the UNet that it serves."""

    in_channels: int
    channels: int
    cross_attention_dim: int
    num_heads: int
    num_layers: int = 2
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    only_cross_attention: bool = False
    output_skip: bool = False

    @classmethod
    def from_unet(cls, unet: dict[str, Any], output_skip: bool) -> "SCBConfig":
        """The config that fits a UNet2DConditionModel's config."""

        def first(value: Any) -> Any:
            return value[0] if isinstance(value, (list, tuple)) else value

        return cls(
            in_channels=unet["out_channels"],
            channels=unet["block_out_channels"][0],
            cross_attention_dim=first(unet["cross_attention_dim"]),
            num_heads=first(unet["num_attention_heads"] or unet["attention_head_dim"]),
            num_layers=first(unet["layers_per_block"]),
            norm_num_groups=unet["norm_num_groups"],
            norm_eps=unet["norm_eps"],
            only_cross_attention=first(unet["only_cross_attention"]),
            output_skip=output_skip,
        )

    def to_metadata(self) -> dict[str, str]:
        """As a safetensors file holds it. One entry: the order of several is not kept."""
        return {"scb": json.dumps(asdict(self))}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> "SCBConfig | None":
        """What `to_metadata` wrote; None if the file is older."""
        return cls(**json.loads(metadata["scb"])) if "scb" in metadata else None


@dataclass(frozen=True)
class SCBOutput:
    """What a plugin adds for one row and step."""

    residuals: tuple[Tensor, ...]  # num_layers + 1 of (B, channels, h, w), for UNet skips 0, 1, ...
    skip: Tensor | None  # (B, in_channels, h, w) added to the UNet's output, with output_skip


class SCB(nn.Module):
    """ResNet and cross-attention layers on the condition latent, each tapped by a zero 1x1 conv."""

    def __init__(self, config: SCBConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        self.conv_in = nn.Conv2d(config.in_channels, width, 3, padding=1)
        self.time_proj = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(width, 4 * width)
        self.down_block = CrossAttnDownBlock2D(
            in_channels=width,
            out_channels=width,
            temb_channels=4 * width,
            num_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            cross_attention_dim=config.cross_attention_dim,
            resnet_groups=config.norm_num_groups,
            resnet_eps=config.norm_eps,
            only_cross_attention=config.only_cross_attention,
            add_downsample=False,
        )
        self.taps = nn.ModuleList(zero_conv(width, width) for _ in range(config.num_layers + 1))
        self.gain = zero_conv(width, config.in_channels) if config.output_skip else None

    def forward(self, cond: Tensor, timesteps: Tensor, tokens: Tensor) -> SCBOutput:
        """cond (B, C, h, w), timesteps (B,), tokens (B, N, D) -> residuals, skip."""
        temb = self.time_embedding(self.time_proj(timesteps).to(cond.dtype))
        hidden = self.conv_in(cond)
        last, layers = self.down_block(hidden, temb, encoder_hidden_states=tokens)
        taps = zip(self.taps, (hidden, *layers), strict=True)
        residuals = tuple(conv(state) for conv, state in taps)
        skip = cond * (1 + self.gain(last)) if self.gain is not None else None
        return SCBOutput(residuals, skip)


def zero_conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, 1)
    torch.nn.init.zeros_(conv.weight)
    assert conv.bias is not None
    torch.nn.init.zeros_(conv.bias)
    return conv
