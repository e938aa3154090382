"""A UNet's attention with fewer projections: self-attention's in one, the tokens' once per edit.

The keys and values of cross-attention depend on the tokens alone, not on time or latents. So one
projection makes those of every layer, once per edit; a step only reads them.
"""

from collections.abc import Callable

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional as F

# query (B, H, M, d), key and value (B, H, N, d) -> (B, H, M, d)
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class FusedAttention:
    """Installed in a UNet, it replaces the attention processors; project() makes their context.

    The UNet then takes, as encoder_hidden_states, either that context or plain tokens: results are
    the same up to the rounding of a differently shaped matrix product.
    """

    def __init__(
        self, unet: UNet2DConditionModel, attend: Attend = F.scaled_dot_product_attention
    ) -> None:
        layers = [m for m in unet.modules() if isinstance(m, Attention)]
        for layer in layers:
            _check(layer)
        crossing = [layer for layer in layers if layer.is_cross_attention]
        self._projection = _fuse([p for layer in crossing for p in (layer.to_k, layer.to_v)])
        end = 0
        for layer in crossing:
            width = layer.to_k.out_features
            layer.set_processor(_CrossAttention(end, width, attend))
            end += 2 * width
        if end == unet.config["cross_attention_dim"]:
            raise ValueError(f"tokens and context of this UNet have the same width, {end}")
        for layer in layers:
            if not layer.is_cross_attention:
                if not hasattr(layer, "to_qkv"):  # CUDA graphs of an earlier runner read it
                    layer.to_qkv = _fuse([layer.to_q, layer.to_k, layer.to_v])
                layer.set_processor(_SelfAttention(attend))

    def project(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, D) -> keys and values of every cross-attention side by side (B, N, E)."""
        context: Tensor = self._projection(tokens)
        return context


class _CrossAttention:
    """Reads its keys and values from columns of the context."""

    def __init__(self, start: int, width: int, attend: Attend) -> None:
        self._key = slice(start, start + width)
        self._value = slice(start + width, start + 2 * width)
        self._attend = attend

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: None = None,
    ) -> Tensor:
        context = encoder_hidden_states
        if context.shape[-1] == attn.to_k.in_features:
            key, value = attn.to_k(context), attn.to_v(context)
        else:
            key, value = context[..., self._key], context[..., self._value]
        return _attend_heads(attn, attn.to_q(hidden_states), key, value, self._attend)


class _SelfAttention:
    """One projection for queries, keys and values."""

    def __init__(self, attend: Attend) -> None:
        self._attend = attend

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: None = None,
        attention_mask: None = None,
    ) -> Tensor:
        query, key, value = attn.to_qkv(hidden_states).chunk(3, dim=-1)
        return _attend_heads(attn, query, key, value, self._attend)


def _attend_heads(
    attn: Attention, query: Tensor, key: Tensor, value: Tensor, attend: Attend
) -> Tensor:
    """(B, M, E), (B, N, E), (B, N, E) -> (B, M, D)."""
    batch = len(query)
    heads = [x.view(batch, -1, attn.heads, x.shape[-1] // attn.heads) for x in (query, key, value)]
    mixed = attend(*(x.transpose(1, 2) for x in heads)).transpose(1, 2).flatten(2)
    output: Tensor = attn.to_out[0](mixed)
    return output


def _fuse(layers: list[nn.Linear]) -> nn.Linear:
    """One layer with the outputs of all side by side; they become views of its weights."""
    with torch.no_grad():
        first = layers[0]
        fused = nn.Linear(
            first.in_features,
            sum(layer.out_features for layer in layers),
            bias=first.bias is not None,
            device=first.weight.device,
            dtype=first.weight.dtype,
        ).requires_grad_(False)
        start = 0
        for layer in layers:
            rows = slice(start, start + layer.out_features)
            fused.weight[rows] = layer.weight
            layer.weight.data = fused.weight[rows]
            if layer.bias is not None:
                fused.bias[rows] = layer.bias
                layer.bias.data = fused.bias[rows]
            start = rows.stop
    return fused


def _check(layer: Attention) -> None:
    plain = (layer.norm_q, layer.norm_k, layer.norm_cross, layer.spatial_norm, layer.group_norm)
    if any(plain) or layer.residual_connection or layer.rescale_output_factor != 1:
        raise ValueError("this UNet's attention has norms or residuals of its own")
