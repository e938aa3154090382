"""The Plugin-Selector as its authors released it: CLIP's words against the TPBs' view of the photo.

score = exp(logit_scale) cos(proj_v(v), proj_t(q)). q is CLIP's text embedding, v the maximum of F^p
over its tokens; a class `null`, the last, has the embedding of " " in place of v. Every class above
zero is meant, in the order of the task list, whatever the sentence says of order.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import linear, normalize
from transformers import CLIPTextModel, CLIPTokenizer

from service.errors import InvalidCheckpoint, InvalidRequest
from service.images import Pixels
from service.jobs import Plan, PlannedTask
from service.models.architectures import load_text_encoder
from service.models.base_files import find_base
from service.models.checkpoint import State, read_state
from service.plugin_manifest import Published, installed_plugins
from service.selector.vision import PromptReader

HEADS = "heads.safetensors"
NULL = "null"
NULL_TEXT = " "
NEEDED = ("proj_v.weight", "proj_v.bias", "proj_t.weight", "proj_t.bias", "logit_scale")


class ReleasedConfig(BaseModel):
    """selector/config.json of a base with the released selector."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["released"] = "released"
    order: tuple[str, ...] = Field(description="Tasks in the order they run; others come after.")
    licence: str


def check_heads(state: State, source: Path) -> None:
    """InvalidCheckpoint unless these are the five tensors of a released selector."""
    if sorted(state) != sorted(NEEDED):
        odd = sorted(set(state) ^ set(NEEDED))[0]
        raise InvalidCheckpoint(f"{source} is no selector: {odd} is missing or not known")
    widths = {state["proj_v.weight"].shape, state["proj_t.weight"].shape}
    if any(len(shape) != 2 for shape in widths) or len({shape[0] for shape in widths}) != 1:
        raise InvalidCheckpoint(f"{source}: proj_v and proj_t must lead to one width")


class ReleasedScorer:
    """Text encoder and heads; it knows no plugins but by their F^p."""

    def __init__(self, heads: State, encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
        self._heads = {name: value.float() for name, value in heads.items()}
        self._encoder, self._tokenizer = encoder.eval().requires_grad_(False), tokenizer
        self.null = self.embed(NULL_TEXT)

    def token_ids(self, text: str) -> Tensor:
        """(1, 77), padded and cut off."""
        length = self._encoder.config.max_position_embeddings
        encoded = self._tokenizer(
            text, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        ids: Tensor = encoded.input_ids
        return ids

    @torch.inference_mode()
    def embed(self, text: str) -> Tensor:
        """(1, D): the normalised state at the first end token, which has the largest id."""
        ids = self.token_ids(text)
        states = self._encoder(input_ids=ids).last_hidden_state
        embedding: Tensor = states[torch.arange(len(ids)), ids.argmax(-1)]
        return embedding

    @torch.inference_mode()
    def scores(self, text: str, prompts: Mapping[str, Tensor]) -> dict[str, float]:
        """exp(logit_scale) * cosine by task, `null` last. prompts: F^p (N, D) of one photo."""
        visual = torch.stack([*(pooled(prompt) for prompt in prompts.values()), self.null[0]])
        v = normalize(self._project("proj_v", visual), dim=-1)
        q = normalize(self._project("proj_t", self.embed(text)), dim=-1)
        scores = self._heads["logit_scale"].exp() * (v @ q[0])
        return dict(zip([*prompts, NULL], scores.tolist(), strict=True))

    def _project(self, head: str, x: Tensor) -> Tensor:
        return linear(x, self._heads[f"{head}.weight"], self._heads[f"{head}.bias"])


def pooled(prompt: Tensor) -> Tensor:
    """F^p (N, D) -> (D,)"""
    return prompt.float().amax(0)


def decided(scores: Mapping[str, float]) -> dict[str, float]:
    """Negative scores become 0; if nothing is left, `null` becomes 1."""
    kept = {name: max(score, 0.0) for name, score in scores.items()}
    return kept if any(kept.values()) else {**kept, NULL: 1.0}


class ReleasedPlanner:
    """From a photo and a sentence to a Plan, as Planner does it for our own selector."""

    reads_images = True

    def __init__(
        self, store: Path, base: str, scorer: ReleasedScorer, order: Sequence[str], device: str
    ) -> None:
        self.scorer = scorer
        self._store, self._base = store, base
        self._ranks = {name: rank for rank, name in enumerate(order)}
        self._vision = PromptReader(store, base, device)
        self.published = Published()  # set it at any time; the next plan follows

    @property
    def plugins(self) -> tuple[str, ...]:
        """Installed plugins in the order they run."""
        last = len(self._ranks)
        return tuple(sorted(self.versions, key=lambda name: (self._ranks.get(name, last), name)))

    @property
    def versions(self) -> dict[str, str]:
        """By name, of the installed plugins."""
        served = self.published.over(installed_plugins(self._store, self._base))
        return {name: manifest.version for name, manifest in served.items()}

    def plan(self, pixels: Pixels | None, instruction: str) -> Plan:
        """Every task with a score above 0; `null` among the scores says how little is meant."""
        if not instruction.strip():
            return Plan(threshold=0.0)
        assert pixels is not None, "this selector looks at the photo. This is a bug."
        scores = decided(self.scorer.scores(instruction, self.prompts(pixels)))
        tasks = (
            PlannedTask(plugin=name, score=score)
            for name, score in scores.items()
            if score > 0 and name != NULL
        )
        return Plan(tasks=tuple(tasks), scores=scores, threshold=0.0)

    def prompts(self, pixels: Pixels) -> dict[str, Tensor]:
        """F^p of every installed plugin, in the order they run."""
        self._vision.follow(self.published)
        return self._vision.prompts(pixels, self.plugins)


def load_released_planner(store: Path, base: str, device: str) -> ReleasedPlanner:
    """The planner of a base whose selector was imported."""
    folder = store / base / "selector"
    config = ReleasedConfig.model_validate_json((folder / "config.json").read_bytes())
    return ReleasedPlanner(store, base, load_released_scorer(store / base), config.order, device)


def load_released_scorer(root: Path) -> ReleasedScorer:
    """Heads from the store, CLIP's text encoder and tokenizer from where the base's parts lie."""
    files = find_base(root)
    encoder = load_text_encoder(files.part("text_encoder"), torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(files.part("tokenizer"))
    heads = read_state(root / "selector" / HEADS)
    width = encoder.config.hidden_size
    if heads["proj_t.weight"].shape[1] != width:
        raise InvalidRequest(
            f"the selector of {root.name!r} is not for its text encoder, whose width is {width}"
        )
    return ReleasedScorer(heads, encoder, tokenizer)
