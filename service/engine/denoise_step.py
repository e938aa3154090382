"""One denoising step of a batch, UNet call and sampler update, as one function of tensors."""

from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from service.engine.sampling import NUM_COLUMNS, SamplerState, update
from service.models.denoiser import denoise

TIMESTEP = NUM_COLUMNS  # column of a packed row


@dataclass(frozen=True)
class DenoiseStep:
    """Rows may be of any plugin, step and schedule; none reads another."""

    unet: UNet2DConditionModel
    dtype: torch.dtype  # of the UNet, which would look through all its modules to tell
    num_residuals: int
    widths: tuple[int, ...]  # channels of the residuals and, if there is one, of the output skip

    def __call__(
        self, state: SamplerState, context: Tensor, complement: Tensor, rows: Tensor
    ) -> SamplerState:
        """context (B, N, E), complement (B, sum(widths), h, w), rows (B, 11) of packed tables."""
        parts = torch.split(complement, list(self.widths), dim=1)
        skips = parts[self.num_residuals :]
        output = denoise(
            self.unet,
            state.x.to(self.dtype),
            rows[:, TIMESTEP],
            context,
            parts[: self.num_residuals],
            skips[0] if skips else None,
        )
        return update(state, output, rows)
