"""SCB: a fresh branch changes nothing, and a trained one reaches the last decoder stage alone."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from service.models.denoiser import denoise, num_skip_connections
from service.models.scb import SCB, SCBConfig

TOKENS = (2, 5, 24)
# The shape of Stable Diffusion 1.5, as far as an SCB reads it.
SD15 = {
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "num_attention_heads": None,
    "attention_head_dim": 8,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "only_cross_attention": False,
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=2,
        cross_attention_dim=24,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    return unet.eval()


def build(unet: UNet2DConditionModel, output_skip: bool) -> SCB:
    torch.manual_seed(1)
    return SCB(SCBConfig.from_unet(dict(unet.config), output_skip))


def train_at_random(scb: SCB) -> None:
    for conv in (*scb.taps, scb.gain):
        if isinstance(conv, nn.Conv2d):
            nn.init.normal_(conv.weight, std=0.5)


def test_the_config_follows_the_first_level_of_the_unet() -> None:
    config = SCBConfig.from_unet(SD15, output_skip=False)
    assert (config.in_channels, config.channels, config.num_layers) == (4, 320, 2)
    assert (config.cross_attention_dim, config.num_heads) == (768, 8)
    assert not config.only_cross_attention
    assert SCBConfig.from_unet({**SD15, "num_attention_heads": 16}, False).num_heads == 16


def test_values_given_per_level_are_those_of_the_first() -> None:
    lists = {"attention_head_dim": [5, 10], "layers_per_block": [1, 3]}
    config = SCBConfig.from_unet({**SD15, **lists, "only_cross_attention": [True, False]}, True)
    assert (config.num_heads, config.num_layers) == (5, 1)
    assert config.only_cross_attention and config.output_skip


def test_there_is_one_residual_per_skip_of_the_last_decoder_stage(
    unet: UNet2DConditionModel,
) -> None:
    output = build(unet, False)(noise(2, 4, 8, 8), torch.tensor([1, 900]), noise(*TOKENS))
    assert [r.shape for r in output.residuals] == [(2, 16, 8, 8)] * 3
    assert len(unet.up_blocks[-1].resnets) == 3
    assert output.skip is None


def test_a_fresh_branch_adds_nothing_and_keeps_the_condition(unet: UNet2DConditionModel) -> None:
    cond = noise(2, 4, 8, 8)
    output = build(unet, True)(cond, torch.tensor([1, 900]), noise(*TOKENS))
    assert all((residual == 0).all() for residual in output.residuals)
    assert output.skip is not None and torch.equal(output.skip, cond)


@torch.no_grad()
def test_a_fresh_plugin_leaves_the_unet_as_it_was(unet: UNet2DConditionModel) -> None:
    x, tokens, times = noise(2, 4, 8, 8), noise(*TOKENS), torch.tensor([1, 900])
    scb = build(unet, False)(noise(2, 4, 8, 8, seed=3), times, tokens)
    plain = unet(x, times, encoder_hidden_states=tokens).sample
    assert torch.equal(denoise(unet, x, times, tokens, scb.residuals, scb.skip), plain)


@torch.no_grad()
def test_residuals_reach_the_last_decoder_stage_and_no_other(unet: UNet2DConditionModel) -> None:
    scb = build(unet, False)
    train_at_random(scb)
    x, tokens, times = noise(2, 4, 8, 8), noise(*TOKENS), torch.tensor([1, 900])
    seen: dict[str, list[Tensor]] = {"mid": [], "first": [], "last": []}
    stages = {"mid": unet.mid_block, "first": unet.up_blocks[0], "last": unet.up_blocks[-1]}
    for name, stage in stages.items():
        stage.register_forward_hook(lambda _, __, out, name=name: seen[name].append(out))
    residuals = scb(noise(2, 4, 8, 8, seed=3), times, tokens).residuals
    for given in ((), residuals):
        denoise(unet, x, times, tokens, given, None)
    assert torch.equal(*seen["mid"])
    assert torch.equal(*seen["first"])
    assert not torch.allclose(*seen["last"], atol=1e-2)


def test_the_output_depends_on_condition_time_and_tokens(unet: UNet2DConditionModel) -> None:
    scb = build(unet, True)
    train_at_random(scb)
    cond, times, tokens = noise(1, 4, 8, 8), torch.tensor([10]), noise(1, 5, 24)
    before = scb(cond, times, tokens).residuals[-1]
    for other in (
        scb(noise(1, 4, 8, 8, seed=9), times, tokens),
        scb(cond, torch.tensor([800]), tokens),
        scb(cond, times, noise(1, 5, 24, seed=9)),
    ):
        assert (other.residuals[-1] - before).abs().max() > 1e-4


def test_skips_are_counted_as_the_unet_makes_them(unet: UNet2DConditionModel) -> None:
    # conv_in, two layers, a downsampler, two layers.
    assert num_skip_connections(unet) == 6
    assert num_skip_connections(unet) == sum(len(b.resnets) for b in unet.up_blocks)
