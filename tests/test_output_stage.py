"""The output stage: a fresh one changes nothing, and any size goes."""

import pytest
import torch

from service.models.output_stage import OutputStage
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


def test_padding_of_an_odd_size_leaves_the_inside_as_it_is() -> None:
    torch.manual_seed(0)
    stage = OutputStage(CONFIG)
    torch.nn.init.normal_(stage.conv_out.weight, std=0.1)
    images, restored = torch.rand(2, 1, 3, 128, 128) * 2 - 1
    whole = stage(images, restored)[..., :40, :40]
    part = stage(images[..., :121, :119], restored[..., :121, :119])[..., :40, :40]
    assert torch.allclose(whole, part, atol=1e-5)
