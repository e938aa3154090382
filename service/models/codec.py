"""PatchCodec: an invertible image codec with the call shape of diffusers' AutoencoderKL.

Each 8x8 RGB patch is turned into 192 channels by an orthonormal Karhunen-Loeve transform, each
channel divided by the square root of its standard deviation. Nothing is lost, nothing is learned by
gradient, and the latent grid is that of Stable Diffusion's VAE (a factor of 8).
"""

from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class PointPosterior:
    """A posterior without variance: its mode is the only value it can take."""

    mean: Tensor  # (B, C, h, w)

    def mode(self) -> Tensor:
        return self.mean


@dataclass(frozen=True)
class EncoderOutput:
    latent_dist: PointPosterior


@dataclass(frozen=True)
class DecoderOutput:
    sample: Tensor  # (B, 3, H, W)


class PatchCodec(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers has no types
    """encode and decode are exact inverses; x (B, 3, H, W) in [-1, 1], z (B, 3p², H/p, W/p)."""

    analysis: Tensor  # (3p², 3, p, p): row k is basis vector k as an RGB patch
    mean: Tensor  # (1, 3, p, p)
    channel_scale: Tensor  # (3p²,)

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers has no types
    def __init__(
        self, patch_size: int = 8, latent_channels: int = 192, scaling_factor: float = 1.0
    ) -> None:
        super().__init__()
        if latent_channels != 3 * patch_size**2:
            raise ValueError(f"latent_channels must be 3 * patch_size² = {3 * patch_size**2}")
        self.patch_size = patch_size
        self.register_buffer("analysis", torch.zeros(latent_channels, 3, patch_size, patch_size))
        self.register_buffer("mean", torch.zeros(1, 3, patch_size, patch_size))
        self.register_buffer("channel_scale", torch.ones(latent_channels))

    def encode(self, x: Tensor) -> EncoderOutput:
        centred = x - self._tiled_mean(x.shape[-2:])
        z = F.conv2d(centred, self.analysis, stride=self.patch_size)
        return EncoderOutput(PointPosterior(z * self.channel_scale[:, None, None]))

    def decode(self, z: Tensor) -> DecoderOutput:
        y = z / self.channel_scale[:, None, None]
        x: Tensor = F.conv_transpose2d(y, self.analysis, stride=self.patch_size)
        return DecoderOutput(x + self._tiled_mean(x.shape[-2:]))

    def _tiled_mean(self, size: torch.Size) -> Tensor:
        return self.mean.repeat(1, 1, size[0] // self.patch_size, size[1] // self.patch_size)

    @classmethod
    def fit(cls, patches: Tensor) -> "PatchCodec":
        """The codec of `patches` (N, 3, p, p) in [-1, 1]; the latents have unit mean variance."""
        size = patches.shape[-1]
        flat = patches.flatten(1).double()
        mean = flat.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov((flat - mean).T))
        std = values.flip(0).clamp_min(1e-10).sqrt()
        scale = std.rsqrt()
        scale /= (std * scale).square().mean().sqrt()
        codec: PatchCodec = cls(size, 3 * size**2)
        codec.analysis.copy_(vectors.T.flip(0).reshape(-1, 3, size, size))
        codec.mean.copy_(mean.reshape(1, 3, size, size))
        codec.channel_scale.copy_(scale)
        return codec
