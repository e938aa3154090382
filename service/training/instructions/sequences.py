"""Shapes for two and three tasks whose order the sentence states."""

import random

from service.training.instructions.writer import ADDED, Writer


def ordered_sentence(writer: Writer, labels: tuple[str, ...]) -> str:
    """A sentence that states that `labels` are to be done in that order."""
    shape = writer.rng.choice(writer.bank.sentences["pairs" if len(labels) == 2 else "triples"])
    given: dict[str, str] = {}
    for letter, label in zip("abc", labels, strict=False):
        given["v" + letter] = writer.imperative(label)
        given["g" + letter] = writer.doing(label)
        given["t" + letter] = writer.name(label)
        given["d" + letter] = _done(writer, label)
    return _cleaned(writer.fill(shape, **given), writer.rng)


def _done(writer: Writer, label: str) -> str:
    if label not in ADDED and writer.bank.labels[label]["nouns"] and writer.rng.random() < 0.5:
        return writer.fill(writer.rng.choice(writer.bank.sentences["done"]), n=writer.noun(label))
    return f"{writer.name(label)} is {writer.rng.choice(['done', 'finished', 'complete'])}"


def _cleaned(sentence: str, rng: random.Random) -> str:
    if rng.random() < 0.2:
        return rng.choice(["please ", "I'd like you to ", "could you ", "kindly "]) + sentence
    return sentence
