"""Measure restoration: degrade held-out photos, restore them, compare with truth and baselines.

`restore` is any callable, so the measurement knows nothing of models; `engine_restorer` makes one
of a real engine.
"""

import json
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from service.engine.engine import Engine
from service.engine.trajectory import Edit
from service.engine.updates import EditDone, EditFailed
from service.evaluation.classical import classical_methods
from service.evaluation.metrics import (
    ciede2000,
    mean_psnr,
    psnr,
    ssim,
    to_image,
    to_pixels,
)
from service.evaluation.sheet import Section, Tile, caption, draw_sheet
from service.training.degradations import Image, Pair, make_pair
from service.training.photos import find_photos, read_photo, to_square

Pixels = NDArray[np.uint8]
Restore = Callable[[list[Pixels], str], list[Pixels]]

CHUNK = 8  # photos restored in one call
PHOTOS_ON_SHEET = 6


@dataclass(frozen=True)
class Measured:
    """One photo of one task. `classical_db` has the PSNR of every baseline."""

    path: Path
    pair: Pair
    output: Image
    psnr_in: float
    psnr_out: float
    ssim_in: float
    ssim_out: float
    classical_db: dict[str, float]


def evaluate_restoration(
    images: Path,
    tasks: tuple[str, ...],
    size: int,
    restore: Restore,
    out_json: Path | None,
    out_sheet: Path,
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, object]:
    """Measure every task on the photos below `images`; write the sheet and, if asked, the JSON."""
    cv2.setNumThreads(1)
    photos = _choose(find_photos(images), limit)
    results: dict[str, object] = {}
    sections = []
    for task in tasks:
        measured = list(_measure_task(_photos_for(task, photos), task, size, restore, seed))
        results[task] = _summarise(task, measured)
        sections.append(_section(task, measured))
    report: dict[str, object] = {"size": size, "seed": seed, "tasks": results}
    draw_sheet(sections, out_sheet)
    if out_json is not None:
        out_json.parent.mkdir(parents=True, exist_ok=True)
        out_json.write_text(json.dumps(report, indent=2) + "\n")
    return report


def seeded_pair(path: Path, task: str, size: int, seed: int) -> Pair:
    """The degraded photo and its truth; the same for the same file name, whatever else is run."""
    name_hash = zlib.crc32(f"{task}/{path.name}".encode())
    clean = to_square(read_photo(path), size)
    return make_pair(task, clean, np.random.default_rng([seed, name_hash]), size / 256)


def engine_restorer(engine: Engine) -> Restore:
    """A `restore` that runs a list of photos through the engine together."""

    def restore(photos: list[Pixels], plugin: str) -> list[Pixels]:
        for index, pixels in enumerate(photos):
            engine.add(Edit(id=str(index), pixels=pixels, plugins=(plugin,), steps=None, seed=0))
        restored: dict[str, Pixels] = {}
        while engine.has_work:
            for update in engine.step():
                if isinstance(update, EditFailed):
                    raise update.error
                if isinstance(update, EditDone):
                    restored[update.id] = update.pixels
        return [restored[str(index)] for index in range(len(photos))]

    return restore


def _choose(photos: list[Path], limit: int | None) -> list[Path]:
    """At most `limit` photos, spread evenly over the sorted list."""
    if limit is None or limit >= len(photos):
        return photos
    if limit < 1:
        raise ValueError("limit must be at least 1")
    return [photos[index * len(photos) // limit] for index in range(limit)]


def _photos_for(task: str, photos: list[Path]) -> list[Path]:
    """Faces are judged on photos named so, if there are any."""
    faces = [path for path in photos if "face" in path.name.lower()]
    return faces if task == "face" and faces else photos


def _measure_task(
    photos: list[Path], task: str, size: int, restore: Restore, seed: int
) -> Iterator[Measured]:
    with tqdm(total=len(photos), desc=task, unit="photo") as bar:
        for start in range(0, len(photos), CHUNK):
            paths = photos[start : start + CHUNK]
            pairs = [seeded_pair(path, task, size, seed) for path in paths]
            outputs = restore([to_pixels(pair.input) for pair in pairs], task)
            for path, pair, output in zip(paths, pairs, outputs, strict=True):
                yield _measure(path, task, pair, to_image(output))
                bar.update()


def _measure(path: Path, task: str, pair: Pair, output: Image) -> Measured:
    methods = classical_methods(task)
    return Measured(
        path=path,
        pair=pair,
        output=output,
        psnr_in=psnr(pair.input, pair.target),
        psnr_out=psnr(output, pair.target),
        ssim_in=ssim(pair.input, pair.target),
        ssim_out=ssim(output, pair.target),
        classical_db={name: psnr(run(pair.input), pair.target) for name, run in methods.items()},
    )


def _summarise(task: str, measured: list[Measured]) -> dict[str, object]:
    """Means over the photos, rounded for people to read."""
    classical = _mean_classical(measured)
    best = max(classical, key=lambda name: classical[name])
    summary: dict[str, object] = {
        "num_photos": len(measured),
        "psnr_in": _rounded(mean_psnr(m.psnr_in for m in measured)),
        "psnr_out": _rounded(mean_psnr(m.psnr_out for m in measured)),
        "ssim_in": _rounded(float(np.mean([m.ssim_in for m in measured]))),
        "ssim_out": _rounded(float(np.mean([m.ssim_out for m in measured]))),
        "classical_psnr": _rounded(classical[best]),
        "classical_method": best,
        "classical": {name: _rounded(value) for name, value in classical.items()},
    }
    if task == "colorize":
        before = [ciede2000(m.pair.input, m.pair.target) for m in measured]
        after = [ciede2000(m.output, m.pair.target) for m in measured]
        summary["ciede2000_in"] = _rounded(float(np.mean(before)))
        summary["ciede2000_out"] = _rounded(float(np.mean(after)))
    return summary


def _mean_classical(measured: list[Measured]) -> dict[str, float]:
    names = measured[0].classical_db
    return {name: mean_psnr(m.classical_db[name] for m in measured) for name in names}


def _section(task: str, measured: list[Measured]) -> Section:
    """The task's part of the sheet: photos spread evenly, and the baseline that is best in mean."""
    classical = _mean_classical(measured)
    best = max(classical, key=lambda name: classical[name])
    count = min(PHOTOS_ON_SHEET, len(measured))
    shown = [measured[index * len(measured) // count] for index in range(count)]
    before = mean_psnr(m.psnr_in for m in measured)
    after = mean_psnr(m.psnr_out for m in measured)
    title = (
        f"{task}: mean PSNR {before:.2f} -> {after:.2f} dB over {len(measured)} photos; "
        f"best classical {best} {classical[best]:.2f} dB"
    )
    return Section(title, [_tiles(task, m, best) for m in shown])


def _tiles(task: str, measured: Measured, best: str) -> list[Tile]:
    baseline = classical_methods(task)[best](measured.pair.input)
    return [
        Tile(to_pixels(measured.pair.input), caption("input", measured.psnr_in)),
        Tile(to_pixels(measured.output), caption("output", measured.psnr_out)),
        Tile(to_pixels(baseline), caption(best, measured.classical_db[best])),
        Tile(to_pixels(measured.pair.target), caption(f"truth  {measured.path.stem[:22]}")),
    ]


def _rounded(value: float) -> float:
    assert math.isfinite(value), "a mean over photos is finite"
    return round(value, 4)
