"""An SCB whose features enter the frozen UNet at any stage: E-1 .. E-n or D-n .. D-1 (Table 4).

The branch is a copy of the UNet's encoder down to that stage, each tap a zero 1x1 convolution; a
deeper stage takes a longer copy, as in the paper. At D-1 it is the SCB that ships.
"""

import copy
from dataclasses import dataclass

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from service.models.scb import zero_conv


@dataclass(frozen=True)
class Place:
    """Side "E" (encoder) or "D" (decoder), and stage 1 (shallow) to n (deep)."""

    side: str
    stage: int

    def __str__(self) -> str:
        return f"{self.side}-{self.stage}"


def places(unet: UNet2DConditionModel) -> list[Place]:
    """Every place that this UNet has, in the order of Table 4."""
    stages = range(1, len(unet.down_blocks) + 1)
    return [*(Place("E", i) for i in stages), *(Place("D", i) for i in reversed(stages))]


@dataclass(frozen=True)
class Contribution:
    """What a branch adds to one call: at UNet skips, inside encoder blocks, at the output."""

    skips: dict[int, Tensor]  # by index of the skip
    blocks: dict[int, Tensor]  # by index of the encoder block
    gain: Tensor | None  # (B, C, h, w)


class PlacedSCB(nn.Module):
    """Condition latent, time, tokens -> features for one stage, and the gain of the output skip."""

    def __init__(self, unet: UNet2DConditionModel, place: Place) -> None:
        super().__init__()
        self.place = place
        self.conv_in = copy.deepcopy(unet.conv_in)
        self.time_proj = unet.time_proj
        self.time_embedding = copy.deepcopy(unet.time_embedding)
        self.down_blocks = copy.deepcopy(unet.down_blocks[: place.stage])
        self.down_blocks[-1].downsamplers = None
        per_stage = int(unet.config["layers_per_block"]) + 1
        self.first = per_stage * (place.stage - 1)
        self.gain_at = per_stage - 1
        widths = list(unet.config["block_out_channels"])
        width, before = widths[place.stage - 1], widths[max(place.stage - 2, 0)]
        if place.side == "E":
            self.taps = nn.ModuleList([zero_conv(width, width)])
        else:
            inputs = [before, *([width] * (per_stage - 1))]
            self.taps = nn.ModuleList(zero_conv(size, size) for size in inputs)
        self.gain = zero_conv(widths[0], int(unet.config["out_channels"]))
        self.requires_grad_(True)

    def forward(self, cond: Tensor, timesteps: Tensor, tokens: Tensor) -> Contribution:
        """cond (B, C, h, w), timesteps (B,), tokens (B, N, D)."""
        temb = self.time_embedding(self.time_proj(timesteps).to(cond.dtype))
        hidden = self.conv_in(cond)
        states = [hidden]
        for block in self.down_blocks:
            hidden, outputs = block(hidden, temb, encoder_hidden_states=tokens)
            states += outputs
        gain = cond * self.gain(states[self.gain_at])
        if self.place.side == "E":
            return Contribution({}, {self.place.stage - 1: self.taps[0](states[-1])}, gain)
        taps = {self.first + i: tap(states[self.first + i]) for i, tap in enumerate(self.taps)}
        return Contribution(taps, {}, gain)


def denoise_placed(
    unet: UNet2DConditionModel,
    latents: Tensor,
    timesteps: Tensor,
    tokens: Tensor,
    cond: Tensor,
    added: Contribution | None,
    mid: Tensor | None = None,
) -> Tensor:
    """The clean latent: the UNet's output on top of the condition, which is what this base learnt.

    `mid` is added after the UNet's middle block, as ControlNet does.
    """
    zero = latents.new_zeros(())
    added = added or Contribution({}, {}, None)
    num_skips = 1 + sum(len(b.resnets) + len(b.downsamplers or ()) for b in unet.down_blocks)
    blocks = [added.blocks.get(i, zero) for i in range(len(unet.down_blocks))]
    output: Tensor = unet(
        latents,
        timesteps,
        encoder_hidden_states=tokens,
        down_block_additional_residuals=[added.skips.get(i, zero) for i in range(num_skips)],
        mid_block_additional_residual=zero if mid is None else mid,
        down_intrablock_additional_residuals=blocks if added.blocks else None,
        return_dict=False,
    )[0]
    kept = cond if added.gain is None else cond + added.gain
    return output + kept
