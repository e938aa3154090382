"""Restore lists of photos with a real engine, as the service does it."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from service.engine.edit import Edit
from service.engine.engine import Engine
from service.engine.updates import EditDone, EditFailed

Pixels = NDArray[np.uint8]
# Photos and the plugins to run one after the other -> restored photos, in the same order.
Restore = Callable[[list[Pixels], tuple[str, ...]], list[Pixels]]


def engine_restorer(engine: Engine) -> Restore:
    """A `restore` that runs a list of photos through the engine together."""

    def restore(photos: list[Pixels], plugins: tuple[str, ...]) -> list[Pixels]:
        for index, pixels in enumerate(photos):
            engine.add(Edit(id=str(index), pixels=pixels, plugins=plugins, steps=None, seed=0))
        restored: dict[str, Pixels] = {}
        while engine.has_work:
            for update in engine.step():
                if isinstance(update, EditFailed):
                    raise update.error
                if isinstance(update, EditDone):
                    restored[update.id] = update.pixels
        return [restored[str(index)] for index in range(len(photos))]

    return restore
