"""The variants of Table 3 and Table 4 and the rivals, each a model that trains and restores.

All share one frozen base, which predicts a change of the photo: its output is added to the
condition in every variant. Images are (B, 3, H, W) in [-1, 1].
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from diffusers import ControlNetModel, UNet2DModel
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from service.engine.sampling import NoiseSchedule, SamplerState, update
from service.evaluation.ablations.placement import (
    Contribution,
    Place,
    PlacedSCB,
    denoise_placed,
)
from service.models.backbone import Backbone
from service.models.tpb import TPB
from service.training.objective import bridge_latents, pixel_loss, sample_timesteps

INVERSION_STEPS = 10
REGRESSION_WIDTHS = (32, 64, 128, 304)  # as many parameters as base and plugin together


class Restoring(Protocol):
    """What every variant can do."""

    def restore(self, images: Tensor, steps: int) -> Tensor: ...


@dataclass(frozen=True)
class Design:
    """Which parts a variant has.

    tokens: "tpb" (trained), "prompt" (the base's own tokens of the task, frozen) or "none".
    """

    tokens: str
    place: Place | None = None
    control: bool = False
    inverted: bool = False  # start from DDIM inversion instead of a noised condition


class DiffusionVariant(nn.Module):
    """The frozen base with some of the parts of a plugin, or with a ControlNet."""

    alphas_cumprod: Tensor

    def __init__(self, backbone: Backbone, folder: Path, task: str, design: Design) -> None:
        super().__init__()
        self.design, self.backbone = design, backbone
        self.reconstructs = False  # train to give the input back, as the paper's variant 5 begins
        self.schedule = NoiseSchedule.from_config(backbone.scheduler_config)
        unet = backbone.unet
        width = backbone.image_encoder.config.hidden_size
        self.tpb = TPB(width, int(unet.config["cross_attention_dim"]))
        if design.tokens == "prompt":
            self.tpb.load_state_dict(_prompt(folder, task))
        self.tpb.requires_grad_(design.tokens == "tpb")
        self.scb = PlacedSCB(unet, design.place) if design.place else None
        self.control = (
            ControlNetModel.from_unet(unet).requires_grad_(True) if design.control else None
        )
        alphas = torch.from_numpy(self.schedule.alphas_cumprod).float()
        self.register_buffer("alphas_cumprod", alphas, persistent=False)

    def forward(self, images: Tensor, targets: Tensor, tasks: Tensor) -> Tensor:
        """Scalar loss (paper eq. 3), that of the shipped plugins."""
        targets = images if self.reconstructs else targets
        cond, z0 = self._encode(images), self._encode(targets)
        timesteps = sample_timesteps(len(images), len(self.alphas_cumprod) - 1, images.device)
        z = bridge_latents(z0, cond, timesteps, self.alphas_cumprod)
        predicted = self._predict(z, timesteps, cond, self._tokens(images), images)
        return pixel_loss(self.backbone.vae.decode(predicted).sample, targets)

    @torch.no_grad()
    def restore(self, images: Tensor, steps: int) -> Tensor:
        """`steps` sampler steps from the noised, or the inverted, condition."""
        cond, tokens = self._encode(images), self._tokens(images)
        table = self.schedule.table(steps)
        if self.design.inverted:
            start = self._invert(images, cond)
        else:
            generator = torch.Generator().manual_seed(0)
            start = table.add_noise(cond, torch.randn(cond.shape, generator=generator))
        state = SamplerState.start(start)
        for t, row in zip(table.timesteps, table.rows, strict=True):
            output = self._predict(state.x, t.repeat(len(images)), cond, tokens, images)
            state = update(state, output, row.repeat(len(images), 1))
        restored: Tensor = self.backbone.vae.decode(state.x).sample.clamp(-1, 1)
        return restored

    def _invert(self, images: Tensor, cond: Tensor) -> Tensor:
        """DDIM inversion (Song et al. 2021) to where sampling starts, without a prompt.

        Each step keeps the noise that the base sees at the step before.
        """
        levels = torch.linspace(0, len(self.alphas_cumprod) - 1, INVERSION_STEPS + 1).long()
        z, nothing = cond, torch.zeros_like(self._tokens(images))
        for now, following in zip(levels[:-1], levels[1:], strict=True):
            a, b = self.alphas_cumprod[now], self.alphas_cumprod[following]
            clean = denoise_placed(
                self.backbone.unet, z, now.repeat(len(cond)), nothing, cond, None
            )
            noise = (z - a.sqrt() * clean) / (1 - a).sqrt()
            z = b.sqrt() * clean + (1 - b).sqrt() * noise
        return z

    def _predict(
        self, z: Tensor, timesteps: Tensor, cond: Tensor, tokens: Tensor, images: Tensor
    ) -> Tensor:
        added: Contribution | None = None
        mid: Tensor | None = None
        if self.scb is not None:
            added = self.scb(cond, timesteps, tokens)
        if self.control is not None:
            down, mid = self.control(
                z, timesteps, tokens, controlnet_cond=images / 2 + 0.5, return_dict=False
            )
            added = Contribution(dict(enumerate(down)), {}, None)
        return denoise_placed(self.backbone.unet, z, timesteps, tokens, cond, added, mid)

    def _encode(self, images: Tensor) -> Tensor:
        codec = self.backbone.vae
        latents: Tensor = codec.encode(images).latent_dist.mode() * codec.config.scaling_factor
        return latents

    def _tokens(self, images: Tensor) -> Tensor:
        """F^p (B, N, D) of the design; zeros where it has none."""
        preprocessor = self.backbone.preprocessor
        size = preprocessor.size
        small = F.interpolate(images, (size, size), mode="bicubic", antialias=True)
        mean = torch.tensor(preprocessor.mean).view(1, 3, 1, 1)
        std = torch.tensor(preprocessor.std).view(1, 3, 1, 1)
        pixels = ((small + 1) / 2 - mean) / std
        with torch.no_grad():
            encoded = self.backbone.image_encoder(pixels, output_hidden_states=True)
        tokens: Tensor = self.tpb(encoded.hidden_states[-1][:, 1:])
        return torch.zeros_like(tokens) if self.design.tokens == "none" else tokens


class RegressionUNet(nn.Module):
    """The honest rival: a plain convolutional U-Net that adds its output to the photo."""

    def __init__(self, widths: tuple[int, ...] = REGRESSION_WIDTHS) -> None:
        super().__init__()
        levels = len(widths)
        self.unet = UNet2DModel(
            in_channels=3,
            out_channels=3,
            block_out_channels=widths,
            down_block_types=["DownBlock2D"] * levels,
            up_block_types=["UpBlock2D"] * levels,
            layers_per_block=1,
            norm_num_groups=16,
            add_attention=False,
        )
        nn.init.zeros_(self.unet.conv_out.weight)
        nn.init.zeros_(self.unet.conv_out.bias)

    def forward(self, images: Tensor, targets: Tensor, tasks: Tensor) -> Tensor:
        return pixel_loss(self._restore(images), targets)

    @torch.no_grad()
    def restore(self, images: Tensor, steps: int) -> Tensor:
        """One pass; `steps` is for the others."""
        return self._restore(images).clamp(-1, 1)

    def _restore(self, images: Tensor) -> Tensor:
        change: Tensor = self.unet(images, 0, return_dict=False)[0]
        return images + change


def _prompt(folder: Path, task: str) -> dict[str, Tensor]:
    """The base's own tokens of a task: what stands for a text prompt at this size."""
    state = load_file(folder / "plugin_starts.safetensors")
    prefix = f"tpb.{task}."
    return {k.removeprefix(prefix): v.float() for k, v in state.items() if k.startswith(prefix)}
