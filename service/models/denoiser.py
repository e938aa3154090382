"""One call of the frozen UNet with what the plugins of its rows contribute."""

from collections.abc import Sequence

from diffusers import UNet2DConditionModel
from torch import Tensor


def denoise(
    unet: UNet2DConditionModel,
    latents: Tensor,
    timesteps: Tensor,
    tokens: Tensor,
    residuals: Sequence[Tensor],
    skip: Tensor | None,
) -> Tensor:
    """Model output (B, C, h, w) for noisy latents; rows may be of any plugin and any step.

    timesteps (B,), tokens (B, N, D). The residuals are added to the skips that reach the last
    decoder stage (paper section 3.3). `skip` (B, C, h, w) is added to the output: the share of the
    condition that plugins with a gain head keep.
    """
    # An explicit mid residual makes diffusers treat the list as ControlNet residuals, added after
    # the down path; without it they are taken for T2I-Adapter features.
    zero = latents.new_zeros(())
    padding = [zero] * (num_skip_connections(unet) - len(residuals))
    output: Tensor = unet(
        latents,
        timesteps,
        encoder_hidden_states=tokens,
        down_block_additional_residuals=[*residuals, *padding],
        mid_block_additional_residual=zero,
        return_dict=False,
    )[0]
    return output if skip is None else output + skip


def num_skip_connections(unet: UNet2DConditionModel) -> int:
    """How many skips the UNet's down path makes: conv_in, every layer, every downsampler."""
    blocks = list(unet.down_blocks)
    return 1 + sum(len(b.resnets) + len(b.downsamplers or ()) for b in blocks)
