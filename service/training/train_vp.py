"""Train VP, the visual head of the Plugin-Selector, on F^p of the installed plugins.

It needs no sentences: the text side is trained, and VP learns to meet its prototypes.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from service.plugin_manifest import installed_plugins
from service.selector.scoring import Scorer
from service.training.plugin_features import plugin_features

TEMPERATURE = 0.07  # tau of eq. 6


def train_vp(
    store: Path, base: str, images: Path, num_images: int = 400, steps: int = 600, seed: int = 0
) -> dict[str, float]:
    """Train VP of the base's selector with the plugins that are installed now."""
    features = plugin_features(store, base, images, num_images, seed=seed)
    digests = {name: manifest.digest for name, manifest in installed_plugins(store, base).items()}
    return train_visual_head(store / base / "selector", features, digests, steps, seed)


def train_visual_head(
    folder: Path,
    features: Mapping[str, Tensor],
    digests: Mapping[str, str],
    steps: int = 600,
    seed: int = 0,
) -> dict[str, float]:
    """Align VP(pooled F^p) of each plugin with the prototype of its label (eq. 6).

    features: per plugin, F^p max-pooled over tokens, of many images: (num_images, D). digests: of
    the plugins' weights; once they change, the selector goes back to the prototype. The text side
    stays as it is, so that sentences keep their scores.
    """
    torch.manual_seed(seed)
    scorer = Scorer.load(folder)
    names = [name for name in features if name in scorer.config.labels]
    width = next(iter(features.values())).shape[-1]
    scorer = scorer.with_visual_head(width, {name: digests[name] for name in names})
    assert scorer.heads.visual is not None
    prototypes = scorer.prototypes()
    targets_of = torch.stack([prototypes[name] for name in scorer.config.labels]).detach()
    optimizer = torch.optim.AdamW(scorer.heads.visual.parameters(), lr=2e-3, weight_decay=0.01)
    for _ in range(steps):
        vectors, labels = _visual_batch(scorer, features, names)
        cosine = vectors @ targets_of.T
        loss = cross_entropy(cosine / TEMPERATURE, labels)
        loss = loss + (1 - cosine[torch.arange(len(labels)), labels]).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    scorer.eval().save(folder)
    with torch.inference_mode():
        vectors, labels = _visual_batch(scorer, features, names)
        cosine = vectors @ targets_of.T
    right = (cosine.argmax(1) == labels).float().mean().item()
    own = cosine[torch.arange(len(labels)), labels].mean().item()
    return {"accuracy": right, "cosine": own}


def _visual_batch(
    scorer: Scorer, features: Mapping[str, Tensor], names: list[str], per_plugin: int = 16
) -> tuple[Tensor, Tensor]:
    assert scorer.heads.visual is not None
    rows = [features[name][torch.randint(len(features[name]), (per_plugin,))] for name in names]
    labels = [scorer.config.labels.index(name) for name in names for _ in range(per_plugin)]
    vectors = normalize(scorer.heads.visual(torch.cat(rows).float()), dim=-1)
    return vectors, torch.tensor(labels)
