"""The pictures of an evaluation: rows of input, output, baseline and truth for each part of it."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from service.evaluation.classical import classical_methods
from service.evaluation.generation import Weather
from service.evaluation.harm import Untouched
from service.evaluation.measured import Measured, best_method, mean_classical
from service.evaluation.metrics import mean_psnr, psnr, to_pixels
from service.evaluation.mixtures import Sequenced
from service.evaluation.sheet import Section, Tile, caption
from service.evaluation.unpaired import Changed

PER_TASK = 6
MAX_NAME = 16  # letters of a photo's name under its tile
Item = TypeVar("Item")


def task(name: str, measured: Sequence[Measured]) -> Section:
    """Input, output, the classical method that is best in the mean, truth."""
    items = list(measured)
    best = best_method(name, items)
    before = mean_psnr(m.before["psnr"] for m in items)
    after = mean_psnr(m.after["psnr"] for m in items)
    title = (
        f"{name}: mean PSNR {before:.2f} -> {after:.2f} dB over {len(items)} photos; "
        f"best classical {best} {mean_classical(items, 'psnr')[best]:.2f} dB"
    )
    return Section(title, [_tiles(name, m, best) for m in spread(items, PER_TASK)])


def _tiles(name: str, measured: Measured, best: str) -> list[Tile]:
    baseline = classical_methods(name)[best](measured.case.input)
    return [
        _tile(measured.case.input, caption("input", measured.before["psnr"])),
        _tile(measured.output, caption("output", measured.after["psnr"])),
        _tile(baseline, caption(best, measured.classical["psnr"][best])),
        _tile(measured.case.target, caption(f"truth  {measured.case.name[:MAX_NAME]}")),
    ]


def weather(name: str, found: Sequence[Weather]) -> Section:
    """The photo, the photo with weather, the marks that were found, the procedural generator."""
    rows = [
        [
            _tile(w.case.input, caption(f"photo  {w.case.name[:MAX_NAME]}")),
            _tile(w.output, "output"),
            _tile(np.repeat(w.marks[..., None], 3, axis=2).astype(np.float32), "added marks"),
            _tile(w.case.target, "procedural generator"),
        ]
        for w in spread(found, PER_TASK)
    ]
    return Section(f"{name}: added weather", rows)


def mixture(name: str, found: Sequenced) -> Section:
    """Input, every plan, truth."""
    rows = []
    for index in spread(range(len(found.cases)), PER_TASK // 2):
        case = found.cases[index]
        tiles = [_tile(case.input, caption("input", psnr(case.input, case.target)))]
        for plan, outputs in found.outputs.items():
            score = psnr(outputs[index], case.target)
            tiles.append(_tile(outputs[index], caption(" > ".join(plan), score)))
        rows.append([*tiles, _tile(case.target, caption(f"truth  {case.name[:MAX_NAME]}"))])
    return Section(name, rows)


def clean(name: str, found: Sequence[Untouched]) -> Section:
    """The photos that a plugin changes most, and what it makes of them."""
    worst = sorted(found, key=lambda item: item.psnr_db)[:4]
    rows = [
        [
            _tile(item.case.input, caption(f"clean  {item.case.name[:MAX_NAME]}")),
            _tile(item.output, caption("output", item.psnr_db)),
        ]
        for item in worst
    ]
    return Section(f"{name}: clean photos that it changes most", rows)


def unpaired(name: str, found: Sequence[Changed]) -> Section:
    """Before and after; photos of another shape are cut to the first one's."""
    rows = [
        [
            _tile(item.case.input, caption(f"before  {item.case.name[:MAX_NAME]}")),
            _tile(item.output, "after"),
        ]
        for item in spread(found, 2 * PER_TASK)
    ]
    return Section(f"{name}: real photos", rows)


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of them, evenly over the list."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _tile(image: NDArray[np.float32], text: str) -> Tile:
    return Tile(to_pixels(image), text)
