"""Train the text side of the Plugin-Selector: encoder, TP and prototypes. It needs no images."""

import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, normalize
from tqdm import tqdm

from service.selector.scoring import Scorer, ScoringConfig
from service.training.ema import EMA
from service.training.instructions.bank import load_bank
from service.training.instructions.corpus import LISTS, Sample, samples
from service.training.instructions.several import CANONICAL
from service.training.precision import fastest_precision
from service.training.pruning import pruned_encoder

POOL = 24  # batches drawn together, sorted by length so that little is padding
CHECKPOINT_EVERY_S = 60.0


@dataclass(frozen=True)
class SelectorRecipe:
    """What the text phase is trained with. max_minutes ends it early with a full decay.

    A run that was cut short goes on from run_dir/checkpoint.pt.
    """

    run_dir: Path = Path("runs/selector")

    steps: int = 2000
    batch_size: int = 64
    lr: float = 1e-4
    heads_lr: float = 2e-3
    warmup: int = 100
    contrastive_weight: float = 0.2
    temperature: float = 0.07  # tau of eq. 6
    num_pieces: int = 8000
    num_texts: int = 40_000  # sentences whose word pieces are counted
    num_layers: int = 6
    seed: int = 0
    max_minutes: float = 60.0


class SelectorLoss(nn.Module):
    """Sigmoid contrastive loss over all tasks, plus eq. 6.

    Eq. 6 alone ranks the sentences of one task against those of the others; it sets no level that a
    sentence must reach. A sentence may ask for three tasks or for none, so each cosine also has to
    fall on the right side of one threshold: a sigmoid per (sentence, task) with a learned scale.
    """

    def __init__(self, recipe: SelectorRecipe) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(2.7))
        self.threshold = nn.Parameter(torch.tensor(0.4))
        self.recipe = recipe

    def forward(self, query: Tensor, vectors: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
        """query (B, w), vectors (K, w), wanted and known (B, K); only known entries count."""
        cosine = query @ vectors.T
        logits = self.log_scale.exp() * (cosine - self.threshold)
        losses = binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        per_sentence = (losses * known).sum(1).mean()
        return per_sentence + self.recipe.contrastive_weight * self.contrast(cosine, wanted)

    def contrast(self, cosine: Tensor, wanted: Tensor) -> Tensor:
        """Eq. 6 for every pair of a task and a sentence that asks for it."""
        scores = cosine / self.recipe.temperature
        others = scores.masked_fill(wanted > 0, float("-inf")).logsumexp(0)  # (K,)
        pairs = torch.logaddexp(scores, others) - scores
        return (pairs * wanted).sum() / wanted.sum().clamp(min=1)


def train_selector(
    out: Path, source: Path, recipe: SelectorRecipe, resume: bool = False
) -> dict[str, float]:
    """Text phase: writes the selector to `out`, starting from the sentence encoder in `source`.

    With `resume` it starts from the selector that is already in `out`.
    """
    torch.manual_seed(recipe.seed)
    scorer = with_topics(Scorer.load(out), topics()) if resume else new_scorer(source, recipe)
    loss_of = SelectorLoss(recipe)
    if resume:
        loss_of.threshold.data.fill_(scorer.config.threshold)
    fit = Fit(scorer, loss_of, recipe)
    fit.run()
    scorer.config = replace(scorer.config, threshold=round(loss_of.threshold.item(), 4))
    scorer.save(out)
    return {"steps": fit.step, "loss": fit.loss, "threshold": scorer.config.threshold}


def new_scorer(source: Path, recipe: SelectorRecipe) -> Scorer:
    """A pruned encoder with fresh heads for the twelve labels and every topic of the corpus."""
    texts = (sample.text for sample in itertools.islice(samples(recipe.seed + 1), recipe.num_texts))
    encoder = pruned_encoder(source, texts, recipe.num_pieces, recipe.num_layers)
    return Scorer(ScoringConfig(CANONICAL, topics(), text_width=encoder.width), encoder)


def topics() -> tuple[str, ...]:
    """Everything no task does, as the corpus groups it."""
    return tuple(topic for topic in load_bank().others if topic not in LISTS)


def with_topics(scorer: Scorer, names: tuple[str, ...]) -> Scorer:
    """The scorer with those topics; prototypes of new ones start at random."""
    grown = Scorer(replace(scorer.config, topics=names), scorer.encoder)
    state = scorer.heads.state_dict()
    old = dict(
        zip((*scorer.config.labels, *scorer.config.topics), state["prototypes"], strict=True)
    )
    rows = zip((*scorer.config.labels, *names), grown.heads.prototypes.detach(), strict=True)
    state["prototypes"] = torch.stack([old.get(name, row) for name, row in rows])
    grown.heads.load_state_dict(state)
    return grown


class Fit:
    """One run of the optimiser: its state can be written down and read back."""

    def __init__(self, scorer: Scorer, loss_of: SelectorLoss, recipe: SelectorRecipe) -> None:
        self.scorer, self.loss_of, self.recipe = scorer, loss_of, recipe
        heads = [*scorer.heads.parameters(), *loss_of.parameters()]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(scorer.encoder.parameters()), "lr": recipe.lr},
                {"params": heads, "lr": recipe.heads_lr},
            ],
            weight_decay=0.01,
        )
        self.ema = EMA(scorer, 0.998)
        self.peak_lrs = [group["lr"] for group in self.optimizer.param_groups]
        self.step, self.seconds, self.loss = 0, 0.0, 0.0
        self.checkpoint = recipe.run_dir / "checkpoint.pt"

    @property
    def spent(self) -> float:
        """Share of the run that is over, by steps or by time."""
        by_time = self.seconds / (60 * self.recipe.max_minutes)
        return max(self.step / self.recipe.steps, by_time)

    def run(self) -> None:
        """Train to the end; the scorer then has the averaged weights."""
        self._resume()
        self.scorer.train()
        progress = tqdm(total=self.recipe.steps, initial=self.step, mininterval=30)
        started, saved = time.monotonic() - self.seconds, self.seconds
        for batch in _batches(self.recipe, stream=self.step):
            if self.spent >= 1:
                break
            self._update(batch)
            self.seconds = time.monotonic() - started
            if self.seconds - saved > CHECKPOINT_EVERY_S:
                self._save()
                saved = self.seconds
            progress.set_postfix(
                loss=f"{self.loss:.3f}", theta=f"{self.loss_of.threshold.item():.3f}", refresh=False
            )
            progress.update()
        progress.close()
        self.ema.swap(self.scorer)
        self.checkpoint.unlink(missing_ok=True)

    def _update(self, batch: list[Sample]) -> None:
        warm = min(1.0, (self.step + 1) / self.recipe.warmup)
        factor = warm * min(1.0, 1.6 * (1 - self.spent))
        for group, lr in zip(self.optimizer.param_groups, self.peak_lrs, strict=True):
            group["lr"] = lr * factor
        loss = _loss(self.scorer, self.loss_of, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.scorer.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.scorer, self.step)
        value = loss.item()
        self.loss = value if self.step == 0 else 0.98 * self.loss + 0.02 * value
        self.step += 1

    def _state(self) -> dict[str, Any]:
        return {
            "scorer": self.scorer.state_dict(),
            "loss_of": self.loss_of.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "progress": [self.step, self.seconds, self.loss],
        }

    def _save(self) -> None:
        """Write beside the old checkpoint first, so that a kill leaves one that can be read."""
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(self._state(), partial)
        partial.replace(self.checkpoint)

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        self.scorer.load_state_dict(state["scorer"])
        self.loss_of.load_state_dict(state["loss_of"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        step, self.seconds, self.loss = state["progress"]
        self.step = int(step)


def _loss(scorer: Scorer, loss_of: SelectorLoss, batch: list[Sample]) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=fastest_precision() == "bf16"):
        pooled = scorer.encoder([sample.text for sample in batch])
    query = normalize(scorer.heads.text(pooled.float()), dim=-1)
    wanted, known = targets(batch, scorer.config)
    loss: Tensor = loss_of(query, normalize(scorer.heads.prototypes, dim=-1), wanted, known)
    return loss


def targets(batch: list[Sample], config: ScoringConfig) -> tuple[Tensor, Tensor]:
    """What each sentence asks for, and of which columns that is known, both (B, labels + topics).

    A task beside something else holds a topic that the sample does not name: unknown.
    """
    columns = {name: index for index, name in enumerate((*config.labels, *config.topics))}
    wanted = torch.zeros(len(batch), len(columns))
    known = torch.ones_like(wanted)
    known[:, len(config.labels) :] = 0.5  # telling topics apart matters less
    for row, sample in enumerate(batch):
        if sample.kind in ("beside", "negation", "old") and not sample.topic:
            known[row, len(config.labels) :] = 0
        for name in (*sample.labels, *([sample.topic] if sample.topic else [])):
            wanted[row, columns[name]] = 1
    return wanted, known


def _batches(recipe: SelectorRecipe, stream: int = 0) -> Iterator[list[Sample]]:
    """Batches of sentences of like length, in random order; other sentences for every `stream`."""
    rng = random.Random(recipe.seed)
    sentences = samples(recipe.seed + 2 + stream)
    while True:
        drawn = itertools.islice(sentences, POOL * recipe.batch_size)
        pool = sorted(drawn, key=lambda sample: len(sample.text))
        batches = [
            pool[at : at + recipe.batch_size] for at in range(0, len(pool), recipe.batch_size)
        ]
        rng.shuffle(batches)
        yield from batches
