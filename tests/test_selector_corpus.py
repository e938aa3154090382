"""The training corpus: labels are known, in order, varied, and free of unfilled slots."""

import itertools
import random
import re
from collections import Counter

import pytest

from service.training.instructions.bank import Bank, load_bank
from service.training.instructions.corpus import KINDS, Sample, samples
from service.training.instructions.noise import mistype
from service.training.instructions.several import CANONICAL, CONTRADICTIONS
from service.training.instructions.wording import bare_noun, gerund, participle


@pytest.fixture(scope="module")
def bank() -> Bank:
    return load_bank()


@pytest.fixture(scope="module")
def drawn(bank: Bank) -> list[Sample]:
    return list(itertools.islice(samples(5, bank), 4000))


def test_the_same_seed_gives_the_same_corpus(bank: Bank, drawn: list[Sample]) -> None:
    assert list(itertools.islice(samples(5, bank), 50)) == drawn[:50]
    assert list(itertools.islice(samples(6, bank), 50)) != drawn[:50]


def test_every_slot_is_filled(drawn: list[Sample]) -> None:
    assert [s.text for s in drawn if re.search(r"[{}]", s.text)] == []


def test_all_labels_and_kinds_occur_often(drawn: list[Sample]) -> None:
    labels = Counter(label for sample in drawn for label in sample.labels)
    assert set(labels) == set(CANONICAL)
    assert min(labels.values()) > 150
    kinds = Counter(sample.kind for sample in drawn)
    assert set(kinds) == set(KINDS) and min(kinds.values()) > 60


def test_sentences_hardly_repeat(drawn: list[Sample]) -> None:
    texts = Counter(sample.text for sample in drawn if sample.kind != "other")
    assert len(texts) > 0.97 * sum(texts.values())


def test_only_stated_orders_differ_from_the_canonical_one(drawn: list[Sample]) -> None:
    for sample in drawn:
        if not sample.ordered:
            assert sample.labels == tuple(name for name in CANONICAL if name in sample.labels)
        assert not any(pair <= set(sample.labels) for pair in CONTRADICTIONS)


def test_what_no_task_does_has_a_topic_and_no_label(drawn: list[Sample]) -> None:
    for sample in drawn:
        assert (sample.topic is not None) == (not sample.labels)


def test_typing_errors_leave_most_of_the_letters() -> None:
    text = "please remove the rain from my picture of the mountain"
    typed = [mistype(text, random.Random(seed)) for seed in range(200)]
    assert sum(one.lower() != text for one in typed) > 150
    common = [sum((Counter(one.lower()) & Counter(text)).values()) / len(text) for one in typed]
    assert sum(common) / len(common) > 0.85


@pytest.mark.parametrize(
    ("verb", "ing", "past"),
    [
        ("remove", "removing", "removed"),
        ("deblur", "deblurring", "deblurred"),
        ("sharpen", "sharpening", "sharpened"),
        ("tidy", "tidying", "tidied"),
        ("undo", "undoing", "undone"),
        ("free", "freeing", "freed"),
    ],
)
def test_verbs_are_inflected(verb: str, ing: str, past: str) -> None:
    assert gerund(f"{verb} the rain") == f"{ing} the rain"
    assert participle(verb) == past


def test_articles_are_dropped() -> None:
    assert [bare_noun(noun) for noun in ("the fog bank", "rain")] == ["fog bank", "rain"]
