"""Measure restoration: damaged photos, pairs, mixtures, clean photos and real photos, in one run.

`restore` is any callable, so the measurement knows nothing of models.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from service.errors import InvalidRequest
from service.evaluation import pictures
from service.evaluation.cases import (
    Case,
    choose_photos,
    damage_of,
    pair_cases,
    photos_for,
    synthetic_cases,
)
from service.evaluation.engine_restore import Restore
from service.evaluation.generation import summarise_weather, weather
from service.evaluation.harm import removes_something, run_clean, summarise_clean
from service.evaluation.measured import measure, summarise
from service.evaluation.mixtures import MIXTURES, run_mixture, summarise_mixture
from service.evaluation.perceptual import reasons
from service.evaluation.sheet import Section
from service.evaluation.unpaired import run_unpaired, summarise_unpaired
from service.training.degradations import GENERATION, NAMES


@dataclass(frozen=True)
class Options:
    """What is measured.

    images: clean photos that are damaged here. pairs: a CSV of inputs and targets. unpaired: real
    photos. sequences: mixtures of two damages. clean: what the plugins do to photos without damage.
    show: photos for the pictures; None: those that are measured.
    """

    tasks: tuple[str, ...]
    images: Path | None = None
    pairs: Path | None = None
    unpaired: Path | None = None
    sequences: bool = False
    clean: bool = False
    size: int = 256
    pattern: str = "*"
    limit: int | None = None
    seed: int = 0
    show: Path | None = None


@dataclass
class Evaluation:
    """The numbers, ready for JSON, and the pictures by the part of the report they belong to."""

    report: dict[str, Any]
    sections: dict[str, list[Section]] = field(default_factory=dict)

    def add(self, part: str, name: str, summary: dict[str, object], section: Section) -> None:
        self.report.setdefault(part, {})[name] = summary
        self.sections.setdefault(part, []).append(section)


def evaluate_restoration(options: Options, restore: Restore) -> Evaluation:
    """All that is asked for; parts: tasks, generation, sequences, clean, pairs, unpaired."""
    cv2.setNumThreads(1)
    report = {"size": options.size, "seed": options.seed, "not_measured": reasons()}
    evaluation = Evaluation(report)
    if options.images is not None:
        photos = choose_photos(options.images, options.pattern, options.limit)
        shown = choose_photos(options.show, limit=pictures.PER_TASK) if options.show else None
        for task in options.tasks:
            _synthetic(task, photos, shown, options, restore, evaluation)
        if options.sequences:
            _sequences(photos, shown, options, restore, evaluation)
        if options.clean:
            _clean(photos, shown, options, restore, evaluation)
    if options.pairs is not None:
        for task in options.tasks:
            cases = tqdm(pair_cases(options.pairs), desc=f"{task}, pairs", unit="pair")
            measured = list(measure(cases, task, restore))
            evaluation.add("pairs", task, summarise(task, measured), pictures.task(task, measured))
    if options.unpaired is not None:
        for task in options.tasks:
            changed = run_unpaired(options.unpaired, task, options.size, restore)
            section = pictures.unpaired(task, changed)
            evaluation.add("unpaired", task, summarise_unpaired(changed), section)
    return evaluation


def _synthetic(
    task: str,
    photos: list[Path],
    shown: list[Path] | None,
    options: Options,
    restore: Restore,
    evaluation: Evaluation,
) -> None:
    _check_degradation(task)

    def cases(paths: list[Path]) -> Iterable[Case]:
        chosen = photos_for(task, paths)
        damaged = synthetic_cases(chosen, task, options.size, options.seed)
        bar: Iterable[Case] = tqdm(damaged, desc=task, unit="photo", total=len(chosen))
        return bar

    if task in GENERATION:
        found = weather(cases(photos), task, restore)
        drawn_weather = weather(cases(shown), task, restore) if shown else found
        section = pictures.weather(task, drawn_weather)
        evaluation.add("generation", task, summarise_weather(found), section)
        return
    measured = list(measure(cases(photos), task, restore))
    drawn = list(measure(cases(shown), task, restore)) if shown else measured
    evaluation.add("tasks", task, summarise(task, measured), pictures.task(task, drawn))


def _sequences(
    photos: list[Path],
    shown: list[Path] | None,
    options: Options,
    restore: Restore,
    evaluation: Evaluation,
) -> None:
    for name, tasks in MIXTURES.items():
        if set(tasks) <= set(options.tasks):
            found = run_mixture(name, photos, options.size, options.seed, restore)
            drawn = found
            if shown:
                drawn = run_mixture(name, shown, options.size, options.seed, restore)
            section = pictures.mixture(name, drawn)
            evaluation.add("sequences", name, summarise_mixture(found), section)


def _clean(
    photos: list[Path],
    shown: list[Path] | None,
    options: Options,
    restore: Restore,
    evaluation: Evaluation,
) -> None:
    for task in filter(removes_something, options.tasks):
        untouched = run_clean(photos, task, options.size, restore)
        drawn = run_clean(shown, task, options.size, restore) if shown else untouched
        evaluation.add("clean", task, summarise_clean(untouched), pictures.clean(task, drawn))


def _check_degradation(task: str) -> None:
    if damage_of(task) is None:
        raise InvalidRequest(
            f"nothing damages photos for {task!r}: measure it on --pairs or --unpaired; "
            f"damages are known for {', '.join(NAMES)}"
        )
