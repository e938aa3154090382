"""What the lossy options cost and save: PSNR against the exact path, and speed, on the base nano.

    python -m loadtests.lossy [--side 256] [--steps 20] [--json FILE]

The exact path runs `--steps` steps. Fewer steps and feature caching are compared with it, and with
the truth, on scikit-image's sample photos damaged for each plugin.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from skimage import data

from loadtests.contenders import drain
from loadtests.goals import environment, write_table
from loadtests.side_by_side import Clock
from service.engine.edit import Edit
from service.engine.engine import Engine
from service.engine.model_runner import ModelRunner
from service.evaluation.metrics import psnr, to_image, to_pixels
from service.images import Pixels
from service.models.backbone import Backbone
from service.models.int8_linears import quantise_linears
from service.models.plugin_store import PluginStore
from service.training.degradations import make_pair

PHOTOS = ("astronaut", "coffee", "chelsea")
PLUGINS = ("derain", "dehaze")
STORE = Path("plugins_store")


def main() -> None:
    options = _parse()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone = Backbone.load(STORE / "nano", str(device))
    store = PluginStore(STORE, backbone)
    exact = Engine(ModelRunner(backbone, store), 8)
    runs = {
        f"exact, {options.steps} steps": (exact, options.steps),
        "8 steps": (exact, 8),
        "4 steps": (exact, 4),
    }
    for interval in (2, 3, 5):
        runner = ModelRunner(backbone, store, cache_interval=interval)
        runs[f"feature cache, every {interval}"] = (Engine(runner, 8), options.steps)
    if device.type == "cpu":
        eight_bit = ModelRunner(Backbone.load(STORE / "nano"), store)
        quantise_linears(eight_bit.backbone.unet)
        runs["int8 linear layers"] = (Engine(eight_bit, 8), options.steps)
    pairs = _pairs(options.side)
    clock, rows, first = Clock(is_cpu=device.type == "cpu"), [], None
    for name, (engine, steps) in runs.items():
        edits = _edits([damaged for _, damaged, _ in pairs], [p for p, _, _ in pairs], steps)
        drain(engine, edits[:1])
        began = clock()
        done = drain(engine, edits)
        seconds = clock() - began
        images = [done[edit.id] for edit in edits]
        first = first or (images, seconds)
        rows.append(_row(name, images, [truth for _, _, truth in pairs], seconds, *first))
        print(json.dumps(rows[-1]), flush=True)
    if options.json:
        head = {"base": "nano", "side": options.side, "edits": len(pairs)} | environment(device)
        options.json.write_text(json.dumps(head | {"results": rows}, indent=2) + "\n")
    if options.page:
        cells = [[str(cell) for cell in row.values()] for row in rows]
        write_table(options.page, "lossy", list(rows[0]), cells)


def _row(
    name: str,
    images: Sequence[Pixels],
    truths: Sequence[Pixels],
    seconds: float,
    exact: Sequence[Pixels],
    exact_s: float,
) -> dict[str, Any]:
    def mean_psnr(others: Sequence[Pixels]) -> float:
        pairs = zip(images, others, strict=True)
        return statistics.mean(min(99.0, psnr(to_image(a), to_image(b))) for a, b in pairs)

    return {
        "variant": name,
        "psnr_to_exact_db": round(mean_psnr(exact), 2),
        "psnr_to_truth_db": round(mean_psnr(truths), 2),
        "speed_up": round(exact_s / seconds, 2),
    }


def _pairs(side: int) -> list[tuple[str, Pixels, Pixels]]:
    """Plugin, damaged photo, truth."""
    found = []
    cv2.setNumThreads(1)
    for plugin in PLUGINS:
        for seed, name in enumerate(PHOTOS):
            pixels = getattr(data, name)()
            square = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
            truth = to_image(np.asarray(square, np.uint8))
            pair = make_pair(plugin, truth, np.random.default_rng(seed), side / 256)
            found.append((plugin, to_pixels(pair.input), to_pixels(pair.target)))
    return found


def _edits(photos: Sequence[Pixels], plugins: Sequence[str], steps: int) -> list[Edit]:
    pairs = zip(photos, plugins, strict=True)
    return [Edit(str(i), photo, (name,), steps) for i, (photo, name) in enumerate(pairs)]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Cost and gain of the lossy options.")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the numbers there too")
    parser.add_argument("--page", type=Path, help="put the table into this page, at its marker")
    return parser.parse_args()


if __name__ == "__main__":
    main()
