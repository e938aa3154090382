"""Feature caching, lossy: between full passes, only the UNet's shallow layers are computed.

After DeepCache (Ma et al., 2024): what reaches the last decoder stage from below changes little
from step to step, so it is kept. The SCB acts on the skips of that stage, which are recomputed.
"""

from collections.abc import Sequence

from diffusers import UNet2DConditionModel
from diffusers.models.unets.unet_2d_blocks import CrossAttnDownBlock2D, CrossAttnUpBlock2D
from torch import Tensor

from service.models.denoiser import denoise


class FeatureCache:
    """The two kinds of pass over one UNet; ValueError if its first level has no attention."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self._unet = unet
        self._down, self._up = unet.down_blocks[0], unet.up_blocks[-1]
        is_known = isinstance(self._down, CrossAttnDownBlock2D)
        if not (is_known and isinstance(self._up, CrossAttnUpBlock2D)):
            raise ValueError("feature caching needs cross-attention in the UNet's first level")

    def full(
        self,
        latents: Tensor,
        timesteps: Tensor,
        tokens: Tensor,
        residuals: Sequence[Tensor],
        skip: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """denoise(), and what a shallow pass needs of it (B, C', h, w)."""
        kept: list[Tensor] = []

        def keep(module: object, args: object, kwargs: dict[str, Tensor]) -> None:
            kept.append(kwargs["hidden_states"])

        hook = self._up.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            output = denoise(self._unet, latents, timesteps, tokens, residuals, skip)
        finally:
            hook.remove()
        return output, kept[0]

    def shallow(
        self,
        latents: Tensor,
        timesteps: Tensor,
        tokens: Tensor,
        residuals: Sequence[Tensor],
        skip: Tensor | None,
        deep: Tensor,
    ) -> Tensor:
        """The same with `deep` of an earlier step in place of all levels but the first."""
        unet = self._unet
        temb = unet.time_embedding(unet.get_time_embed(sample=latents, timestep=timesteps))
        hidden = unet.conv_in(latents)
        layers = [hidden]
        for resnet, attention in zip(self._down.resnets, self._down.attentions, strict=True):
            hidden = resnet(hidden, temb)
            hidden = attention(hidden, encoder_hidden_states=tokens, return_dict=False)[0]
            layers.append(hidden)
        skips = [layer + added for layer, added in zip(layers, residuals, strict=True)]
        hidden = self._up(
            hidden_states=deep,
            res_hidden_states_tuple=tuple(skips),
            temb=temb,
            encoder_hidden_states=tokens,
        )
        output: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
        return output if skip is None else output + skip
