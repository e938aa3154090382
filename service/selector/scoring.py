"""The neural part of the Plugin-Selector (paper section 3.4, eq. 4 and 5).

q = TP(Enc_T(T)) is compared by cosine with one vector v_i per task. v_i is VP(F^p_i), so depends on
the image, where the plugin is installed and VP has seen it; else it is the task's text prototype.
It knows nothing of order, mapping table or installed plugins.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from service.selector.text_encoder import TextEncoder

NEAR_COSINE = 0.1
LITTLE_LEFT = 0.5


@dataclass(frozen=True)
class ScoringConfig:
    """labels have learned prototypes; topics are things no task does, learned to be told apart."""

    labels: tuple[str, ...]
    topics: tuple[str, ...] = ()
    width: int = 128  # of the shared space
    text_width: int = 384
    threshold: float = 0.5  # theta of eq. 5
    visual_width: int = 0  # width of F^p; 0: VP is not trained yet
    visual_plugins: dict[str, str] = field(default_factory=dict)  # VP's teachers: name, digest


@dataclass(frozen=True, eq=False)
class TextPrototype:
    """v_i of a plugin that is known by examples alone, and the cosine from which it is meant."""

    vector: Tensor
    bar: float


class Heads(nn.Module):
    """TP, VP, and the prototypes: the v_i that are not computed from an image."""

    def __init__(self, config: ScoringConfig) -> None:
        super().__init__()
        self.text = nn.Linear(config.text_width, config.width)
        self.prototypes = nn.Parameter(
            torch.randn(len(config.labels) + len(config.topics), config.width)
        )
        self.visual = visual_head(config) if config.visual_width else None


def visual_head(config: ScoringConfig) -> nn.Module:
    """VP, shared by all plugins."""
    return nn.Sequential(
        nn.LayerNorm(config.visual_width),
        nn.Linear(config.visual_width, 2 * config.width),
        nn.GELU(),
        nn.Linear(2 * config.width, config.width),
    )


class Scorer(nn.Module):
    """Cosine of a sentence with every task it knows."""

    def __init__(self, config: ScoringConfig, encoder: TextEncoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.heads = Heads(config)

    def embed(self, texts: Sequence[str]) -> Tensor:
        """q of eq. 4, of unit length: (B, width)"""
        return normalize(self.heads.text(self.encoder(texts)), dim=-1)

    def prototypes(self) -> dict[str, Tensor]:
        """v_i of every label that does not need an image."""
        vectors = normalize(self.heads.prototypes, dim=-1)
        return dict(zip(self.config.labels, vectors, strict=False))

    def text_prototype(self, examples: Sequence[str]) -> "TextPrototype":
        """v_i of a new plugin: the mean of the sentences that ask for it.

        What it shares with a label is taken out: "remove the shadow" lies near lowlight, and
        sentences that only ask to brighten must not find it. Unseen sentences come less close to
        such a mean than to a learned prototype does a sentence of its label: hence its own bar,
        halfway between theta and its examples.
        """
        queries = self.embed(examples)
        vector = _apart_from(normalize(queries.mean(0), dim=-1), list(self.prototypes().values()))
        closeness = (queries @ vector).mean().item()
        threshold = self.config.threshold
        return TextPrototype(vector, max(threshold, (threshold + closeness) / 2))

    def visual_vectors(self, prompts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """v_i = VP(max over the tokens of F^p_i) of those plugins that VP was trained with.

        prompts: F^p (N, D) of one image, by plugin.
        """
        names = [name for name in prompts if name in self.config.visual_plugins]
        if self.heads.visual is None or not names:
            return {}
        pooled = torch.stack([prompts[name].float().amax(0) for name in names])  # (m, D)
        vectors = normalize(self.heads.visual(pooled), dim=-1)
        return dict(zip(names, vectors, strict=True))

    def with_visual_head(self, width: int, plugins: Mapping[str, str]) -> "Scorer":
        """A copy whose VP is new and untrained. plugins: digest of the weights, by name."""
        config = replace(self.config, visual_width=width, visual_plugins=dict(plugins))
        scorer = Scorer(config, self.encoder)
        state = self.heads.state_dict()
        kept = {name: value for name, value in state.items() if not name.startswith("visual.")}
        scorer.heads.load_state_dict(kept, strict=False)
        return scorer

    @classmethod
    def load(cls, folder: Path) -> "Scorer":
        raw = json.loads((folder / "config.json").read_text())
        for name in ("labels", "topics"):
            raw[name] = tuple(raw[name])
        scorer = cls(ScoringConfig(**raw), TextEncoder.load(folder / "text"))
        weights = load_file(folder / "heads.safetensors")
        scorer.heads.load_state_dict({name: value.float() for name, value in weights.items()})
        return scorer.eval()

    def save(self, folder: Path) -> None:
        """Write config.json, heads.safetensors (fp16) and text/ (int8)."""
        self.encoder.save(folder / "text")
        (folder / "config.json").write_text(json.dumps(asdict(self.config), indent=2) + "\n")
        weights = {k: v.half().contiguous() for k, v in self.heads.state_dict().items()}
        save_file(weights, folder / "heads.safetensors")


def similarities(query: Tensor, vectors: Mapping[str, Tensor]) -> dict[str, float]:
    """Cosine of one q (width,) with each v_i, all of unit length."""
    scores = torch.stack(list(vectors.values())) @ query
    return dict(zip(vectors, scores.tolist(), strict=True))


def _apart_from(vector: Tensor, labels: Sequence[Tensor]) -> Tensor:
    """`vector` without its part in the span of the labels near to it, unless little is left."""
    near = [label for label in labels if label @ vector > NEAR_COSINE]
    if not near:
        return vector
    span = torch.linalg.qr(torch.stack(near).T)[0]  # (width, len(near)), orthonormal
    rest = vector - span @ (span.T @ vector)
    return normalize(rest, dim=-1) if rest.norm() > LITTLE_LEFT else vector
