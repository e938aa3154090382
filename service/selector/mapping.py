"""The mapping table of the store: task order and titles, and compound wishes broken into tasks."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from service.errors import InvalidRequest

UP_TO_THREE_WORDS = r"(?:\S+\s+){0,3}?"


class Compound(BaseModel):
    """One wish that stands for several tasks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wish: str
    phrases: tuple[str, ...]
    tasks: tuple[str, ...]
    margin: float = 0.0  # its tasks pass this far below the threshold

    def is_in(self, text: str) -> bool:
        plain = " ".join(re.findall(r"[\w'-]+", text.lower()))
        return any(_pattern(phrase).search(plain) for phrase in self.phrases)


def _pattern(phrase: str) -> re.Pattern[str]:
    parts = [re.escape(part.strip()) for part in phrase.lower().split("*")]
    gap = r"\s+" + UP_TO_THREE_WORDS
    return re.compile(rf"\b{gap.join(parts)}\b")


class MappingFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    order: tuple[str, ...]
    titles: dict[str, str]
    compounds: tuple[Compound, ...] = ()


@dataclass(frozen=True)
class MappingTable:
    """mapping.yaml, read."""

    file: MappingFile

    @classmethod
    def load(cls, path: Path) -> "MappingTable":
        """Read `path`; InvalidRequest says what is wrong with it."""
        try:
            raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
            return cls(MappingFile.model_validate(raw))
        except FileNotFoundError as error:
            raise InvalidRequest(f"the mapping table {path} is missing") from error
        except (ValidationError, yaml.YAMLError) as error:
            raise InvalidRequest(f"the mapping table {path} is malformed: {error}") from error

    def canonical(self, tasks: Iterable[str]) -> tuple[str, ...]:
        """In the table's order; tasks it does not name come last, by name."""
        ranks = {task: rank for rank, task in enumerate(self.file.order)}
        return tuple(sorted(tasks, key=lambda task: (ranks.get(task, len(ranks)), task)))

    def selected(self, text: str, scores: Mapping[str, float], threshold: float) -> set[str]:
        """Eq. 5, with a lower bar for the tasks of a compound wish that the sentence names."""
        margins = dict.fromkeys(scores, 0.0)
        for compound in self.file.compounds:
            if compound.is_in(text):
                for task in compound.tasks:
                    if task in margins:
                        margins[task] = max(margins[task], compound.margin)
        return {task for task, score in scores.items() if score >= threshold - margins[task]}
