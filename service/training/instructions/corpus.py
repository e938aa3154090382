"""The endless corpus: sentences with their labels in execution order, drawn by kind."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from service.training.instructions.bank import Bank, load_bank
from service.training.instructions.negation import nothing_wanted, task_but_not
from service.training.instructions.noise import mistype
from service.training.instructions.old_photos import old_photo_request
from service.training.instructions.sequences import ordered_sentence
from service.training.instructions.several import (
    CANONICAL,
    canonical,
    one_request,
    other_request,
    pick_labels,
    several_requests,
    task_beside_other,
)
from service.training.instructions.wording import as_typed
from service.training.instructions.writer import Writer

KINDS = {
    "single": 0.25, "multi": 0.15, "ordered": 0.1, "beside": 0.14, "other": 0.15,
    "old": 0.06, "swap": 0.04, "negation": 0.11,
}  # fmt: skip
SIDE_TOPICS = (
    "assist", "deeds", "deeds", "insert", "recolor", "swap", "person", "style", "crop",
    "question", "remove", "rotate", "media",
)  # fmt: skip
OFTEN = (
    "assist", "assist", "insert", "swap", "question", "deeds", "deeds", "trivia", "trivia",
    "defocus", "defocus", "darken", "grayscale", "addhaze", "damage", "remove", "person",
)  # fmt: skip
LISTS = ("colors", "verbs")  # lists of the bank that are no topics
TYPO_SHARE = 0.35
SWAPS = (("derain", "snow"), ("desnow", "rain"), ("dehaze", "snow"), ("dehaze", "rain"))


@dataclass(frozen=True)
class Sample:
    """`labels` are in execution order; `topic` names what a sentence without labels is about."""

    text: str
    labels: tuple[str, ...]
    kind: str
    topic: str | None = None

    @property
    def ordered(self) -> bool:
        return self.kind == "ordered"


def samples(seed: int, bank: Bank | None = None) -> Iterator[Sample]:
    """Samples without end; the same seed gives the same ones."""
    rng = random.Random(seed)
    writer = Writer(bank or load_bank(), rng)
    kinds, weights = list(KINDS), list(KINDS.values())
    while True:
        writer.turn_to_new_sentence(keeps_subject=rng.random() < 0.6)
        sample = _draw(writer, rng.choices(kinds, weights)[0])
        typed = rng.random() < TYPO_SHARE
        text = mistype(sample.text, rng) if typed else as_typed(sample.text, rng)
        if text.strip():
            yield Sample(text, sample.labels, sample.kind, sample.topic)


def _draw(writer: Writer, kind: str) -> Sample:
    rng = writer.rng
    if kind == "single":
        label = rng.choice(CANONICAL)
        return Sample(one_request(writer, label), (label,), kind)
    if kind == "multi":
        labels = pick_labels(writer, rng.choice([2, 2, 2, 3]))
        return Sample(several_requests(writer, labels), canonical(set(labels)), kind)
    if kind == "ordered":
        labels = pick_labels(writer, rng.choice([2, 2, 2, 3]))
        return Sample(ordered_sentence(writer, labels), labels, kind)
    if kind == "beside":
        label = rng.choice(CANONICAL)
        return Sample(task_beside_other(writer, label, rng.choice(SIDE_TOPICS)), (label,), kind)
    if kind == "old":
        text, asked = old_photo_request(writer)
        return Sample(text, canonical(asked), kind)
    if kind == "swap":
        return _swap(writer)
    return _negation(writer) if kind == "negation" else _other(writer)


def _swap(writer: Writer) -> Sample:
    removed, added = writer.rng.choice(SWAPS)
    text = writer.fill(
        writer.rng.choice(writer.bank.hints["swaps"]), a=writer.noun(removed), b=writer.noun(added)
    )
    if writer.rng.random() < 0.3:
        text = f"at {writer.subject()}, {text}"
    return Sample(text, (removed, added), "swap")


def _negation(writer: Writer) -> Sample:
    if writer.rng.random() < 0.22:
        return Sample(nothing_wanted(writer), (), "negation", "opinion")
    *wanted, unwanted = pick_labels(writer, writer.rng.choice([2, 2, 2, 3]))
    text = task_but_not(writer, tuple(wanted), unwanted)
    return Sample(text, canonical(set(wanted)), "negation")


def _other(writer: Writer) -> Sample:
    topics = [topic for topic in writer.bank.others if topic not in LISTS]
    topic = writer.rng.choice([*topics, *topics, *OFTEN])
    return Sample(other_request(writer, topic), (), "other", topic)
