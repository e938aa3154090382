"""Feature caching: lossless where nothing changed, and each edit the same whoever is beside it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from service.engine.edit import Edit
from service.engine.engine import Engine
from service.engine.model_runner import ModelRunner
from service.engine.updates import EditDone, Update
from service.images import Pixels
from service.models.backbone import Backbone
from service.models.feature_cache import FeatureCache
from service.models.plugin_store import PluginStore
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin
from tests.tiny_latent_base import CROSS_ATTENTION_DIM, build_unet

TOLERANCE_LEVELS = 1


@torch.no_grad()
def test_a_shallow_pass_with_fresh_features_equals_a_full_one() -> None:
    torch.manual_seed(0)
    cache = FeatureCache(build_unet())
    residuals = [torch.randn(2, 16, 8, 8) for _ in range(3)]
    inputs = (
        torch.randn(2, 4, 8, 8),
        torch.tensor([7, 300]),
        torch.randn(2, 5, CROSS_ATTENTION_DIM),
    )
    output, deep = cache.full(*inputs, residuals, None)
    torch.testing.assert_close(cache.shallow(*inputs, residuals, None, deep), output)
    stale = cache.shallow(*inputs, residuals, None, torch.zeros_like(deep))
    assert (stale - output).abs().max() > 1e-2
    others = cache.shallow(*inputs, [2 * r for r in residuals], None, deep)
    assert (others - output).abs().max() > 1e-2


def test_a_unet_without_attention_in_its_first_level_is_refused() -> None:
    unet = build_unet()
    unet.down_blocks = unet.down_blocks[1:]
    with pytest.raises(ValueError, match="first level"):
        FeatureCache(unet)


def image(updates: list[Update], name: str) -> Pixels:
    return next(u.pixels for u in updates if isinstance(u, EditDone) and u.id == name)


def drain(engine: Engine) -> list[Update]:
    updates: list[Update] = []
    while engine.has_work:
        updates += engine.step()
    return updates


def test_cached_edits_are_the_same_alone_and_beside_one_that_joins_midway(tmp_path: Path) -> None:
    write_tiny_base(tmp_path)
    for seed, name in enumerate(("derain", "desnow")):
        write_tiny_plugin(tmp_path, name, seed)
    backbone = Backbone.load(tmp_path / BASE)
    store = PluginStore(tmp_path, backbone)
    photos = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
    first = Edit("a", photos[0], ("derain",), 6)
    late = Edit("b", photos[1], ("desnow",), 6)

    cached = Engine(ModelRunner(backbone, store, cache_interval=2), 4)
    alone = {}
    for edit in (first, late):
        cached.add(edit)
        alone[edit.id] = image(drain(cached), edit.id)
    cached.add(first)
    updates = cached.step()
    cached.add(late)
    updates += drain(cached)
    for name, expected in alone.items():
        difference = np.abs(image(updates, name).astype(int) - expected)
        assert difference.max() <= TOLERANCE_LEVELS

    exact = Engine(ModelRunner(backbone, store), 4)
    exact.add(first)
    loss = np.abs(image(drain(exact), "a").astype(int) - alone["a"])
    assert loss.max() > TOLERANCE_LEVELS
