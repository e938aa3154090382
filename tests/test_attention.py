"""Fused attention gives what diffusers gives, from tokens or from keys and values made once."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from service.models.attention import FusedAttention
from service.training import nano
from tests.tiny_latent_base import build_unet

# A wider matrix product may add in another order.
TOLERANCE = 2e-5


@pytest.fixture(params=["latent", "nano"])
def unet(request: pytest.FixtureRequest) -> UNet2DConditionModel:
    torch.manual_seed(0)
    if request.param == "latent":
        return build_unet().requires_grad_(False)
    unet = nano.build_unet(nano.NanoSize((32, 32))).requires_grad_(False)
    torch.nn.init.normal_(unet.conv_out.weight, std=0.3)
    return unet


def tokens_for(unet: UNet2DConditionModel) -> Tensor:
    return torch.randn(2, 5, unet.config["cross_attention_dim"])


def run(unet: UNet2DConditionModel, context: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, unet.config["in_channels"], 8, 8, generator=generator)
    return unet(latents, 7, encoder_hidden_states=context, return_dict=False)[0]


def test_context_and_tokens_both_give_what_the_plain_unet_gives(
    unet: UNet2DConditionModel,
) -> None:
    tokens = tokens_for(unet)
    expected = run(unet, tokens)
    fused = FusedAttention(unet)
    for context in (fused.project(tokens), tokens):
        torch.testing.assert_close(run(unet, context), expected, atol=TOLERANCE, rtol=0)
    other = fused.project(tokens.flip(0))
    assert (run(unet, other) - expected).abs().max() > 100 * TOLERANCE


def test_fusing_makes_no_second_copy_of_the_weights(unet: UNet2DConditionModel) -> None:
    fused = FusedAttention(unet)
    tokens = tokens_for(unet)
    before = fused.project(tokens)
    for name, parameter in unet.named_parameters():
        if name.endswith(("to_k.weight", "to_v.weight")):
            parameter.zero_()
    assert before.abs().max() > 0
    assert fused.project(tokens).abs().max() == 0


def test_attention_with_norms_of_its_own_is_refused() -> None:
    unet = build_unet()
    unet.mid_block.attentions[0].transformer_blocks[0].attn1.norm_q = torch.nn.LayerNorm(4)
    with pytest.raises(ValueError, match="norms"):
        FusedAttention(unet)
