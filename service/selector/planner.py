"""From a picture and a sentence to a Plan: scores, threshold, mapping table, order.

Plugins may come and go while it lives: the manifests are read again when they change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from service.errors import InvalidRequest
from service.images import Pixels
from service.jobs import Plan, PlannedTask
from service.plugin_manifest import PluginManifest, installed_plugins
from service.selector.mapping import MappingTable
from service.selector.order import stated_order
from service.selector.scoring import Scorer, similarities
from service.selector.vision import PromptReader

Stamp = tuple[tuple[str, int], ...]


class Vision(Protocol):
    def prompts(self, pixels: Pixels, names: Sequence[str]) -> Mapping[str, Tensor]: ...


@dataclass(frozen=True)
class Installed:
    """The plugins as they were when the manifests had these times."""

    stamp: Stamp
    manifests: dict[str, PluginManifest]
    new_tasks: dict[str, Tensor]  # text prototypes of those that are no label of the selector


class Planner:
    """Everything a selector needs to answer; not to be used by two threads at once."""

    def __init__(
        self, store: Path, base: str, scorer: Scorer, mapping: MappingTable, vision: Vision | None
    ) -> None:
        self.scorer, self.mapping = scorer, mapping
        self._store, self._base, self._vision = store, base, vision
        self._labels = scorer.prototypes()
        self._installed = Installed((), {}, {})

    @property
    def plugins(self) -> tuple[str, ...]:
        """Names of the installed plugins."""
        return tuple(self._current().manifests)

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
        chosen = self.mapping.selected(instruction, scores, threshold)
        ordered = self._ordered(instruction, self.mapping.canonical(chosen), vectors)
        tasks = (
            PlannedTask(plugin=name, score=scores[name], installed=name in installed.manifests)
            for name in ordered
        )
        return Plan(tasks=tuple(tasks), scores=scores, threshold=threshold)

    def _vectors(self, installed: Installed, pixels: Pixels | None) -> dict[str, Tensor]:
        """v_i of every task: from the image where VP can, else prototypes."""
        vectors = {**self._labels, **installed.new_tasks}
        if pixels is not None and self._vision is not None:
            names = [n for n in installed.manifests if n in self.scorer.config.visual_plugins]
            vectors |= self.scorer.visual_vectors(self._vision.prompts(pixels, names))
        return vectors

    def _ordered(
        self, instruction: str, tasks: tuple[str, ...], vectors: Mapping[str, Tensor]
    ) -> tuple[str, ...]:
        def score(texts: Sequence[str]) -> list[dict[str, float]]:
            return [similarities(query, vectors) for query in self.scorer.embed(texts)]

        return stated_order(instruction, tasks, score, self.scorer.config.threshold)

    def _current(self) -> Installed:
        files = sorted((self._store / self._base / "plugins").glob("*/manifest.json"))
        stamp = tuple((file.parent.name, file.stat().st_mtime_ns) for file in files)
        if stamp != self._installed.stamp:
            manifests = installed_plugins(self._store, self._base)
            self._installed = Installed(stamp, manifests, self._new_tasks(manifests))
        return self._installed

    @torch.inference_mode()
    def _new_tasks(self, manifests: Mapping[str, PluginManifest]) -> dict[str, Tensor]:
        return {
            name: self.scorer.text_prototype(manifest.example_instructions)
            for name, manifest in manifests.items()
            if name not in self._labels
        }


def load_planner(store: Path, base: str, device: str = "cpu") -> Planner:
    """The planner of one base; `device` is where the image encoder runs, if VP needs it."""
    folder = store / base / "selector"
    if not (folder / "config.json").exists():
        raise InvalidRequest(
            f"base {base!r} has no selector: {folder} is missing; train one or name the plugins"
        )
    scorer = Scorer.load(folder)
    vision = PromptReader(store, base, device) if scorer.config.visual_plugins else None
    return Planner(store, base, scorer, MappingTable.load(store / "mapping.yaml"), vision)
