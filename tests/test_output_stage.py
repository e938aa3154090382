"""The output stage: a fresh one changes nothing, and any size goes."""

import numpy as np
import pytest
import torch

from service.engine.large_refine import refine_large
from service.models.output_stage import OutputStage
from service.models.tone import LEVELS, Tone, quantiles, transform
from service.plugin_manifest import OutputStageConfig

CONFIG = OutputStageConfig(patch_size=2, channels=(8, 8, 12))


@pytest.mark.parametrize("size", [(32, 32), (37, 50), (3, 5)])
def test_a_fresh_stage_changes_nothing_at_any_size(size: tuple[int, int]) -> None:
    images, restored = torch.rand(2, 2, 3, *size) * 2 - 1
    assert torch.equal(OutputStage(CONFIG)(images, restored), restored)


def test_a_stage_sees_the_input_beside_what_was_restored() -> None:
    torch.manual_seed(0)
    stage = OutputStage(CONFIG)
    torch.nn.init.normal_(stage.conv_out.weight, std=0.1)
    images, restored = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    refined = stage(images, restored)
    assert refined.shape == restored.shape
    assert not torch.allclose(stage(-images, restored), refined, atol=1e-4)
    assert not torch.allclose(stage(images, -restored) + 2 * restored, refined, atol=1e-4)


def test_a_mirrored_stage_makes_of_a_mirrored_photo_the_mirrored_result() -> None:
    torch.manual_seed(0)
    stage = OutputStage(CONFIG.model_copy(update={"mirrored": True})).eval()
    torch.nn.init.normal_(stage.conv_out.weight, std=0.1)
    images, restored = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    refined, of_mirrored = (
        stage.refine(images, restored),
        stage.refine(images.flip(-1), restored.flip(-1)),
    )
    assert torch.allclose(of_mirrored.flip(-1), refined, atol=1e-5)
    assert not torch.allclose(stage.train().refine(images, restored), refined, atol=1e-4)


def test_padding_of_an_odd_size_leaves_the_inside_as_it_is() -> None:
    torch.manual_seed(0)
    stage = OutputStage(CONFIG)
    torch.nn.init.normal_(stage.conv_out.weight, std=0.1)
    images, restored = torch.rand(2, 1, 3, 128, 128) * 2 - 1
    whole = stage.refine(images, restored)[..., :40, :40]
    part = stage.refine(images[..., :121, :119], restored[..., :121, :119])[..., :40, :40]
    assert torch.allclose(whole, part, atol=1e-5)


def test_a_transform_is_linear_in_its_terms() -> None:
    images, restored = torch.rand(2, 1, 3, 4, 4) * 2 - 1
    coefficients = torch.zeros(1, 3, 13, 4, 4)
    coefficients[:, 0, 4] = 0.5  # red takes half the input's green
    coefficients[:, 2, 12] = 0.1  # blue takes a constant
    toned = transform(coefficients.flatten(1, 2), images, restored)
    expected = restored.clone()
    expected[:, 0] += 0.5 * images[:, 1]
    expected[:, 2] += 0.1
    assert torch.allclose(toned, expected, atol=1e-6)


def test_quantiles_tell_how_dark_and_how_bright_each_colour_gets() -> None:
    ramp = torch.linspace(-1, 1, 101).reshape(1, 1, 1, -1)
    found = quantiles(torch.cat([ramp, 0.5 * ramp.flip(-1)], 1))
    expected = torch.tensor([2 * level - 1 for level in LEVELS])
    assert torch.allclose(found, torch.cat([expected, 0.5 * expected])[None], atol=1e-5)


def test_a_tone_with_levels_sees_the_darkest_pixels() -> None:
    torch.manual_seed(0)
    tone = Tone(levels=True)
    torch.nn.init.normal_(tone.head.weight, std=0.1)
    photo = torch.full((1, 3, 64, 64), 0.2)
    other = photo.clone()
    other[:, :, 0, :60] = -1.0  # 1.5 %: the mean hardly moves
    with torch.no_grad():
        tone.convs[0].weight.zero_()
        assert not torch.allclose(tone.coefficients(photo, photo), tone.coefficients(other, other))


def test_tone_depends_on_the_whole_photo() -> None:
    torch.manual_seed(0)
    tone = Tone()
    torch.nn.init.normal_(tone.head.weight, std=0.1)
    images, restored = torch.rand(2, 1, 3, 128, 128) * 2 - 1
    other = images.clone()
    other[..., 64:] = 1.0
    assert not torch.allclose(
        tone(other, restored)[..., :40], tone(images, restored)[..., :40], atol=1e-3
    )


def test_a_stage_with_noise_makes_something_else_of_other_noise() -> None:
    torch.manual_seed(0)
    stage = OutputStage(CONFIG.model_copy(update={"noise": True}))
    torch.nn.init.normal_(stage.conv_out.weight, std=0.1)
    images, noise, other = torch.randn(3, 1, 3, 32, 32)
    assert torch.equal(stage(images, images, noise), stage(images, images, noise))
    assert not torch.allclose(stage(images, images, noise), stage(images, images, other), atol=1e-3)


@pytest.mark.parametrize("noise", [False, True])
def test_a_large_photo_is_refined_in_pieces_as_it_is_whole(noise: bool) -> None:
    torch.manual_seed(0)
    stage = OutputStage(OutputStageConfig(channels=(8, 8, 12, 12), noise=noise))
    torch.nn.init.normal_(stage.conv_out.weight, std=0.1)
    torch.nn.init.normal_(stage.tone.head.weight, std=0.1)
    pixels = np.random.default_rng(0).integers(0, 256, (700, 1100, 3), dtype=np.uint8)
    restored = torch.rand(3, 700, 1100) * 2 - 1
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    drawn = torch.randn(restored.shape, generator=torch.Generator().manual_seed(5))[None]
    with torch.inference_mode():
        whole = stage(images, restored[None], drawn if noise else None)[0]
        pieces = refine_large(stage, pixels, restored, seed=5)
    assert (whole - restored).abs().mean() > 0.1
    assert torch.allclose(whole, pieces, atol=1e-4)
