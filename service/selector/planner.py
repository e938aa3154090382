"""From a picture and a sentence to a Plan: scores, threshold, mapping table, order.

Plugins may come and go while it lives: the manifests are read again when they change.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from service.errors import InvalidRequest
from service.images import Pixels
from service.jobs import Plan, PlannedTask
from service.plugin_manifest import PluginManifest, Published, installed_plugins
from service.selector.mapping import MappingTable
from service.selector.order import clauses_of, stated_order
from service.selector.released import load_released_planner
from service.selector.scoring import Scorer, TextPrototype, similarities
from service.selector.vision import PromptReader

Stamp = tuple[tuple[str, int], ...]


class Vision(Protocol):
    def follow(self, published: Published) -> None: ...
    def prompts(self, pixels: Pixels, names: Sequence[str]) -> Mapping[str, Tensor]: ...


@dataclass(frozen=True)
class Installed:
    """The plugins as they were when the manifests had these times, under what was published."""

    stamp: Stamp
    generation: int
    manifests: dict[str, PluginManifest]
    new_tasks: dict[str, TextPrototype]  # of those that are no label of the selector


class Planner:
    """Everything a selector needs to answer; not to be used by two threads at once."""

    def __init__(
        self, store: Path, base: str, scorer: Scorer, mapping: MappingTable, vision: Vision | None
    ) -> None:
        self.scorer, self.mapping = scorer, mapping
        self._store, self._base, self._vision = store, base, vision
        self._labels = scorer.prototypes()
        self._installed = Installed((), 0, {}, {})
        self.published = Published()  # set it at any time; the next plan follows

    @property
    def plugins(self) -> tuple[str, ...]:
        """Names of the installed plugins."""
        return tuple(self._current().manifests)

    @property
    def versions(self) -> dict[str, str]:
        """By name, of the installed plugins."""
        return {name: manifest.version for name, manifest in self._current().manifests.items()}

    @property
    def reads_images(self) -> bool:
        return self._vision is not None

    @torch.inference_mode()
    def plan(self, pixels: Pixels | None, instruction: str) -> Plan:
        """The ordered tasks that `instruction` asks for; an image takes part in the scores."""
        threshold = self.scorer.config.threshold
        if not instruction.strip():
            return Plan(threshold=threshold)
        installed = self._current()
        vectors = self._vectors(installed, pixels)
        scores = similarities(self.scorer.embed([instruction])[0], vectors)
        scores |= self._new_scores(installed, instruction)
        chosen = self.mapping.selected(instruction, scores, threshold)
        ordered = self._ordered(instruction, self.mapping.canonical(chosen), installed, vectors)
        tasks = (
            PlannedTask(plugin=name, score=scores[name], installed=name in installed.manifests)
            for name in ordered
        )
        return Plan(tasks=tuple(tasks), scores=scores, threshold=threshold)

    def _vectors(self, installed: Installed, pixels: Pixels | None) -> dict[str, Tensor]:
        """v_i of every label: from the image where VP knows these weights, else its prototype."""
        if pixels is None or self._vision is None:
            return self._labels
        known = self.scorer.config.visual_plugins
        names = [
            n for n, manifest in installed.manifests.items() if known.get(n) == manifest.digest
        ]
        return self._labels | self.scorer.visual_vectors(self._vision.prompts(pixels, names))

    def _new_scores(self, installed: Installed, instruction: str) -> dict[str, float]:
        """Scores of new plugins: the best of the sentence's clauses.

        Training never joined them with other tasks, so beside one they fade in the whole sentence.
        """
        if not installed.new_tasks:
            return {}
        queries = self.scorer.embed([instruction, *clauses_of(instruction)])
        return {
            name: self._shifted((queries @ prototype.vector).max().item(), prototype)
            for name, prototype in installed.new_tasks.items()
        }

    def _shifted(self, cosine: float, prototype: TextPrototype) -> float:
        """So that its own bar falls on the one threshold that a plan tells."""
        return cosine - prototype.bar + self.scorer.config.threshold

    def _ordered(
        self,
        instruction: str,
        tasks: tuple[str, ...],
        installed: Installed,
        vectors: Mapping[str, Tensor],
    ) -> tuple[str, ...]:
        every = {**vectors, **{name: new.vector for name, new in installed.new_tasks.items()}}

        def score(texts: Sequence[str]) -> list[dict[str, float]]:
            return [similarities(query, every) for query in self.scorer.embed(texts)]

        return stated_order(instruction, tasks, score, self.scorer.config.threshold)

    def _current(self) -> Installed:
        files = sorted((self._store / self._base / "plugins").glob("*/manifest.json"))
        stamp = tuple((file.parent.name, file.stat().st_mtime_ns) for file in files)
        published, known = self.published, self._installed
        if (stamp, published.generation) != (known.stamp, known.generation):
            manifests = published.over(installed_plugins(self._store, self._base))
            if self._vision is not None and published.generation != known.generation:
                self._vision.follow(published)
            new_tasks = self._new_tasks(manifests)
            self._installed = Installed(stamp, published.generation, manifests, new_tasks)
        return self._installed

    @torch.inference_mode()
    def _new_tasks(self, manifests: Mapping[str, PluginManifest]) -> dict[str, TextPrototype]:
        return {
            name: self.scorer.text_prototype(manifest.example_instructions)
            for name, manifest in manifests.items()
            if name not in self._labels
        }


class Planning(Protocol):
    """What the roles need of a planner, ours or the released one."""

    published: Published

    @property
    def plugins(self) -> tuple[str, ...]: ...

    @property
    def versions(self) -> dict[str, str]: ...

    @property
    def reads_images(self) -> bool: ...

    def plan(self, pixels: Pixels | None, instruction: str) -> Plan: ...


def load_planner(store: Path, base: str, device: str = "cpu") -> Planning:
    """The planner of one base; `device` is where the image encoder runs, if VP needs it."""
    folder = store / base / "selector"
    if not (folder / "config.json").exists():
        raise InvalidRequest(
            f"base {base!r} has no selector: {folder} is missing; train one or name the plugins"
        )
    if json.loads((folder / "config.json").read_text()).get("kind") == "released":
        return load_released_planner(store, base, device)
    return load_own_planner(store, base, device)


def load_own_planner(store: Path, base: str, device: str = "cpu") -> Planner:
    """As load_planner; InvalidRequest if the base has the selector of the plugins' authors."""
    folder = store / base / "selector"
    if "kind" in json.loads((folder / "config.json").read_text()):
        raise InvalidRequest(f"the selector of {base!r} was released by others; this is for ours")
    scorer = Scorer.load(folder)
    vision = PromptReader(store, base, device) if scorer.config.visual_plugins else None
    return Planner(store, base, scorer, MappingTable.load(store / "mapping.yaml"), vision)
