"""The engine and what it is compared with, over equal networks, and the edits that all run."""

from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from loadtests.baselines import DiffusersBatch, ReferenceLoop
from loadtests.bench_bases import BenchBase, loaded_store, serving_copy
from service.engine.edit import Edit
from service.engine.engine import Engine
from service.engine.model_runner import ModelRunner
from service.engine.updates import EditDone, EditFailed, Update
from service.images import Pixels
from service.models.backbone import Backbone

MAX_BATCH = 8


class Contenders:
    """Each is built when it is first asked for; engines of one runner share its weights."""

    def __init__(self, base: BenchBase, device: torch.device, folder: Path, compiles: bool) -> None:
        self.base, self.device, self._folder, self._compiles = base, device, folder, compiles
        rng = np.random.default_rng(0)
        shape = (base.side, base.side, 3)
        self._photos = [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(8)]

    @cached_property
    def runner(self) -> ModelRunner:
        backbone = serving_copy(self._networks)
        return ModelRunner(backbone, loaded_store(self.base, backbone))

    @cached_property
    def reference(self) -> ReferenceLoop:
        return ReferenceLoop(self.base, self.base.build(self.device), self._folder)

    @cached_property
    def diffusers(self) -> DiffusersBatch:
        backbone = serving_copy(self._networks)
        store = loaded_store(self.base, backbone)
        return DiffusersBatch(backbone, store, self._compiles, MAX_BATCH)

    def engine(self, max_batch_size: int = MAX_BATCH) -> Engine:
        return Engine(self.runner, max_batch_size)

    def edits(self, num: int, num_plugins: int) -> list[Edit]:
        """Of `num_plugins` plugins in turn."""
        return [
            Edit(str(i), self._photos[i % 8], (self.base.plugins[i % num_plugins],),
                 steps=self.base.steps, seed=i)
            for i in range(num)
        ]  # fmt: skip

    @cached_property
    def _networks(self) -> Backbone:
        return self.base.build(self.device)


def drain(engine: Engine, edits: list[Edit]) -> dict[str, Pixels]:
    """Hand all in and run to the end; RuntimeError if one fails."""
    for edit in edits:
        engine.add(edit)
    done: dict[str, Pixels] = {}
    while engine.has_work:
        done |= images_of(engine.step())
    return done


def images_of(updates: list[Update]) -> dict[str, Pixels]:
    for update in updates:
        if isinstance(update, EditFailed):
            raise RuntimeError(f"edit {update.id} failed: {update.error}")
    return {u.id: u.pixels for u in updates if isinstance(u, EditDone)}
