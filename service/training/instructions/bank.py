"""The phrase lists of the corpus, read from the YAML files beside this module."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Bank:
    """Every list by name; see the first comment of each file for the slots."""

    labels: dict[str, dict[str, list[str]]]
    shapes: dict[str, list[str]]  # of one request
    sentences: dict[str, list[str]]  # of several, in an order, with a negation
    subjects: dict[str, list[str]]
    others: dict[str, list[str]]
    hints: dict[str, list[str]]
    wishes: dict[str, list[str]]  # indirect wishes, by label
    words: list[str]  # plain nouns and verbs that stand for anything


def load_bank(folder: Path = HERE) -> Bank:
    """The bank in `folder`; every entry is text, though YAML may read 42 as a number."""
    hints = _read(folder / "hints.yaml")
    wishes = hints.pop("hints")
    return Bank(
        labels={name: _lists(lists) for name, lists in _read(folder / "labels.yaml").items()},
        shapes=_lists(_read(folder / "shapes.yaml")),
        sentences=_lists(_read(folder / "sentences.yaml")),
        subjects=_lists(_read(folder / "subjects.yaml")),
        others=_lists(_read(folder / "others.yaml")),
        hints=_lists(hints),
        wishes=_lists(wishes),
        words=(folder / "words.txt").read_text().split(),
    )


def _read(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def _lists(raw: dict[str, Any]) -> dict[str, list[str]]:
    return {name: [str(entry) for entry in entries] for name, entries in raw.items()}
