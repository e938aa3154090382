"""TPB: image features to prompt tokens, row by row and token by token."""

import torch
from torch import nn

from service.models.tpb import TPB


def test_tokens_have_the_width_of_the_cross_attention() -> None:
    assert TPB(24, 40)(torch.randn(2, 5, 24)).shape == (2, 5, 40)


def test_norm_and_activation_follow_all_linear_layers_but_the_last() -> None:
    kinds = [type(layer) for layer in TPB(8, 12).layers]
    block = [nn.Linear, nn.LayerNorm, nn.LeakyReLU]
    assert kinds == [*block, *block, nn.Linear]


def test_a_token_depends_on_its_own_feature_alone() -> None:
    tpb = TPB(24, 40)
    features = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0))
    changed = features.clone()
    changed[1, 3] += 1.0
    moved = (tpb(changed) - tpb(features)).abs().amax(-1) > 1e-6
    assert moved.nonzero().tolist() == [[1, 3]]


def test_names_of_weights_are_those_of_published_plugins() -> None:
    """A plugin's file is read by these names: changing them breaks every plugin there is."""
    assert list(TPB(8, 12).state_dict()) == [
        f"layers.{layer}.{kind}" for layer in (0, 1, 3, 4, 6) for kind in ("weight", "bias")
    ]
