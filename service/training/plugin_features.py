"""F^p of installed plugins on damaged photos: what VP of the selector is trained with."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from service.images import Pixels
from service.models.backbone import Backbone
from service.models.plugin_store import PluginStore
from service.plugin_manifest import installed_plugins
from service.training.degradations import TASKS, make_pair
from service.training.photos import find_photos, read_photo, to_square

BATCH = 16


@torch.no_grad()
def plugin_features(
    store: Path, base: str, images: Path, num_images: int = 400, size: int = 256, seed: int = 0
) -> dict[str, Tensor]:
    """F^p max-pooled over tokens, by plugin: (num_images, D).

    Every plugin reads every photo, whatever its damage: at work, all read the one that was sent.
    """
    backbone = Backbone.load(store / base)
    plugins = PluginStore(store, backbone)
    photos = _damaged(images, num_images, size, seed)
    batches = [photos[at : at + BATCH] for at in range(0, len(photos), BATCH)]
    features = torch.cat([backbone.image_features(batch) for batch in batches])  # (n, N, width)
    names = installed_plugins(store, base)
    return {name: plugins.get(name).tpb(features).amax(1) for name in names}


def _damaged(images: Path, num_images: int, size: int, seed: int) -> list[Pixels]:
    """Photos with the damage of a random task each, or none."""
    rng = np.random.default_rng(seed)
    paths = find_photos(images)
    damaged = []
    for index in range(num_images):
        clean = to_square(read_photo(paths[index % len(paths)]), size)
        task = (*TASKS, None)[rng.integers(len(TASKS) + 1)]
        image = make_pair(task, clean, rng, size / 256).input if task else clean
        damaged.append((image * 255).round().astype(np.uint8))
    return damaged
