"""One denoising step of a batch, UNet call and sampler update, as one function of tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from service.engine.sampling import NUM_COLUMNS, SamplerState, update
from service.models.denoiser import denoise
from service.models.feature_cache import FeatureCache

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
        x = state.x.to(self.dtype)
        output = denoise(self.unet, x, rows[:, TIMESTEP], context, *self._added(complement))
        return update(state, output, rows)

    def with_cache(
        self,
        cache: FeatureCache,
        state: SamplerState,
        context: Tensor,
        complement: Tensor,
        rows: Tensor,
        deep: Tensor | None,
    ) -> tuple[SamplerState, Tensor]:
        """The same, lossy, from the `deep` features of an earlier step; None: a full pass."""
        inputs = (state.x.to(self.dtype), rows[:, TIMESTEP], context, *self._added(complement))
        if deep is None:
            output, deep = cache.full(*inputs)
        else:
            output = cache.shallow(*inputs, deep)
        return update(state, output, rows), deep

    def _added(self, complement: Tensor) -> tuple[Sequence[Tensor], Tensor | None]:
        """Residuals and output skip."""
        parts = torch.split(complement, list(self.widths), dim=1)
        skips = parts[self.num_residuals :]
        return parts[: self.num_residuals], skips[0] if skips else None
