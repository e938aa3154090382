"""Table 6 of the paper: the selector without its projection heads, and with fewer negatives.

The sentence encoder and F^p are frozen; only the heads VP and TP are trained, with eq. 6 alone. So
the numbers are below those of the selector that ships, which is trained whole and otherwise.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from service.selector.scoring import Scorer, ScoringConfig, visual_head
from service.training.instructions.corpus import Sample, samples
from service.training.plugin_features import plugin_features

TEMPERATURE = 0.07  # tau of eq. 6
KINDS = {"single": "single", "beside": "single + non-existing", "multi": "multi"}
DEFAULT_NEGATIVES = 7


@dataclass(frozen=True)
class HeadsRecipe:
    """How much is trained and tested; the same for every variant."""

    num_sentences: int = 2400  # of which a quarter tests and an eighth sets the threshold
    num_images: int = 64
    steps: int = 600
    batch_size: int = 32
    width: int = 128
    lr: float = 2e-3
    seed: int = 0


@dataclass(frozen=True)
class Corpus:
    """Sentences as frozen features, and F^p of every plugin on the same images."""

    plugins: tuple[str, ...]
    features: Tensor  # (plugins, images, D), max-pooled F^p
    texts: Tensor  # (sentences, width of the encoder)
    wanted: Tensor  # (sentences, plugins), bool
    kinds: tuple[str, ...]

    def part(self, start: int, stop: int) -> "Corpus":
        """Some of the sentences."""
        return Corpus(
            self.plugins,
            self.features,
            self.texts[start:stop],
            self.wanted[start:stop],
            self.kinds[start:stop],
        )


class Heads(nn.Module):
    """VP and TP, either of them removed: what it would have projected is compared as it is."""

    def __init__(self, corpus: Corpus, width: int, has_visual: bool, has_text: bool) -> None:
        super().__init__()
        visual_width, text_width = corpus.features.shape[-1], corpus.texts.shape[-1]
        shared = width if has_text else text_width
        shared = shared if has_visual else visual_width
        config = ScoringConfig((), width=shared, visual_width=visual_width)
        self.visual = visual_head(config) if has_visual else nn.Identity()
        self.text = nn.Linear(text_width, shared) if has_text else nn.Identity()

    def cosines(self, features: Tensor, texts: Tensor) -> Tensor:
        """features (..., D), texts (..., W), broadcast against each other."""
        v, q = normalize(self.visual(features), dim=-1), normalize(self.text(texts), dim=-1)
        return (v * q).sum(-1)


VARIANTS: dict[str, tuple[bool, bool, int]] = {
    "without VP": (False, True, DEFAULT_NEGATIVES),
    "without TP": (True, False, DEFAULT_NEGATIVES),
    **{f"N = {n}": (True, True, n) for n in (1, 3, 5, 7, 15)},
}


def run_heads(
    store: Path, base: str, images: Path, recipe: HeadsRecipe | None = None
) -> dict[str, dict[str, float]]:
    """ZTA by kind of sentence for every variant."""
    recipe = recipe or HeadsRecipe()
    corpus = read_corpus(store, base, images, recipe)
    tests = len(corpus.kinds) // 4
    held = tests + len(corpus.kinds) // 8
    test, tune, train = corpus.part(0, tests), corpus.part(tests, held), corpus.part(held, 10**9)
    found = {}
    for name, (has_visual, has_text, negatives) in VARIANTS.items():
        torch.manual_seed(recipe.seed)
        heads = Heads(corpus, recipe.width, has_visual, has_text)
        _train(heads, train, recipe, negatives)
        found[name] = _measure(heads, tune, test)
    return found


def read_corpus(store: Path, base: str, images: Path, recipe: HeadsRecipe) -> Corpus:
    """Generated sentences that ask for installed plugins or for nothing."""
    pooled = plugin_features(store, base, images, recipe.num_images, seed=recipe.seed)
    plugins = tuple(pooled)
    scorer = Scorer.load(store / base / "selector")

    def fits(sample: Sample) -> bool:
        return sample.kind in (*KINDS, "other") and set(sample.labels) <= set(plugins)

    chosen = list(itertools.islice(filter(fits, samples(recipe.seed + 11)), recipe.num_sentences))
    with torch.inference_mode():
        texts = _in_batches(scorer.encoder, [sample.text for sample in chosen])
    wanted = torch.tensor([[name in s.labels for name in plugins] for s in chosen])
    features = torch.stack([pooled[name] for name in plugins])
    return Corpus(plugins, features, texts.clone(), wanted, tuple(s.kind for s in chosen))


def _in_batches(encode: Callable[[Sequence[str]], Tensor], texts: list[str]) -> Tensor:
    batches = [texts[at : at + 64] for at in range(0, len(texts), 64)]
    return torch.cat([encode(batch) for batch in batches])


def _train(heads: Heads, corpus: Corpus, recipe: HeadsRecipe, num_negatives: int) -> None:
    """Eq. 6: a plugin's v, one sentence that asks for it and N that do not."""
    parameters = list(heads.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=0.01)
    asking = [corpus.wanted[:, i].nonzero()[:, 0] for i in range(len(corpus.plugins))]
    others = [(~corpus.wanted[:, i]).nonzero()[:, 0] for i in range(len(corpus.plugins))]
    for _ in range(recipe.steps):
        plugins = torch.randint(len(corpus.plugins), (recipe.batch_size,)).tolist()
        rows = torch.stack(
            [torch.cat([_draw(asking[i], 1), _draw(others[i], num_negatives)]) for i in plugins]
        )  # (B, 1 + N), the positive first
        images = torch.randint(corpus.features.shape[1], (recipe.batch_size,))
        features = corpus.features[plugins, images]  # (B, D)
        cosines = heads.cosines(features[:, None], corpus.texts[rows])
        loss = cross_entropy(cosines / TEMPERATURE, torch.zeros(len(rows), dtype=torch.long))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()


def _draw(rows: Tensor, count: int) -> Tensor:
    return rows[torch.randint(len(rows), (count,))]


@torch.no_grad()
def _measure(heads: Heads, tune: Corpus, test: Corpus) -> dict[str, float]:
    """Exact sets at the threshold that is best on `tune`."""
    heads.eval()
    scores = _scores(heads, tune)
    levels = scores.flatten().sort().values[:: max(1, scores.numel() // 200)]
    right = [((scores > level) == tune.wanted).all(1).float().mean().item() for level in levels]
    threshold = levels[max(range(len(right)), key=right.__getitem__)]
    exact = ((_scores(heads, test) > threshold) == test.wanted).all(1)
    found = {}
    for kind, title in KINDS.items():
        rows = [index for index, name in enumerate(test.kinds) if name == kind]
        found[title] = round(exact[rows].float().mean().item(), 4) if rows else float("nan")
    return found


def _scores(heads: Heads, corpus: Corpus) -> Tensor:
    """(sentences, plugins); each sentence comes with the next image."""
    images = torch.arange(len(corpus.texts)) % corpus.features.shape[1]
    features = corpus.features[:, images].transpose(0, 1)  # (sentences, plugins, D)
    return heads.cosines(features, corpus.texts[:, None])
