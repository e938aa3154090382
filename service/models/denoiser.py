"""One call of the frozen UNet with what the plugins of its rows contribute."""

from torch import Tensor, nn

from service.models.scb import SCBOutput


def denoise(
    unet: nn.Module, z: Tensor, timesteps: Tensor, tokens: Tensor, cond: Tensor, scb: SCBOutput
) -> Tensor:
    """Raw model output (B, C, h, w) for noisy latents z; rows may be of any plugin and any step.

    Residuals are added to the skips that reach the last decoder stage (paper section 3.3). With an
    output skip the prediction is the condition, scaled by (1 + gain), plus the UNet's change.
    """
    # An explicit mid residual makes diffusers treat the list as ControlNet residuals, added after
    # the down path; without it they are taken for T2I-Adapter features.
    zero = z.new_zeros(())
    num_skips = num_skip_connections(unet)
    output: Tensor = unet(
        z,
        timesteps,
        encoder_hidden_states=tokens,
        down_block_additional_residuals=[
            *scb.residuals, *[zero] * (num_skips - len(scb.residuals))
        ],
        mid_block_additional_residual=zero,
        return_dict=False,
    )[0]
    return output if scb.gain is None else output + cond * (1 + scb.gain)


def num_skip_connections(unet: nn.Module) -> int:
    """How many skips the UNet's down path makes: conv_in, every layer, every downsampler."""
    blocks = list(unet.down_blocks)
    return 1 + sum(len(b.resnets) + len(b.downsamplers or ()) for b in blocks)
