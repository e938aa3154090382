"""Gathers what the runs of an ablation left into one report, and draws its pictures."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from service.evaluation.ablations.run import (
    AblationRecipe,
    baselines,
    held_out_cases,
    load_trained,
    restore,
    results,
)
from service.evaluation.ablations.selector_heads import HeadsRecipe, run_heads
from service.evaluation.cases import choose_photos, synthetic_cases
from service.evaluation.metrics import psnr, to_pixels
from service.evaluation.sheet import Section, Tile, caption
from service.models.backbone import Backbone

TILES_PER_ROW = 6


def gather(recipe: AblationRecipe, heads: HeadsRecipe | None = None) -> dict[str, Any]:
    """The report, once every variant has run; Table 6 is trained here if it is not there yet."""
    return {
        "recipe": {name: _told(value) for name, value in asdict(recipe).items()},
        "num_photos": len(list(held_out_cases(recipe, recipe.tasks[0]))),
        "tasks": results(recipe),
        "baselines": {task: _kept_baselines(recipe, task) for task in recipe.tasks},
        "selector": _kept_selector(recipe, heads),
    }


def _told(value: Any) -> Any:
    """A folder by its name: where it lies matters on one machine only."""
    return value.name if isinstance(value, Path) else value


def draw_variants(recipe: AblationRecipe, show: Path, num_photos: int = 1) -> list[Section]:
    """Input, every variant and truth, on photos of `show`."""
    backbone = Backbone.load(recipe.store / recipe.base)
    found = results(recipe)
    sections = []
    for task in recipe.tasks:
        photos = choose_photos(show, limit=num_photos)
        cases = list(synthetic_cases(photos, task, recipe.held_out_size, recipe.seed))
        rows = [
            [Tile(to_pixels(c.input), caption("input", psnr(c.input, c.target)))] for c in cases
        ]
        for name in found[task]:
            outputs = restore(load_trained(recipe, backbone, task, name), cases)
            for row, case, output in zip(rows, cases, outputs, strict=True):
                score = psnr(output, case.target)
                row.append(Tile(to_pixels(output), caption(_short(name), score)))
        for row, case in zip(rows, cases, strict=True):
            row.append(Tile(to_pixels(case.target), "truth"))
        wrapped = [
            row[at : at + TILES_PER_ROW] for row in rows for at in range(0, len(row), TILES_PER_ROW)
        ]
        sections.append(Section(f"{task}: every variant on one photo", wrapped))
    return sections


def _short(name: str) -> str:
    return name.replace("reconstruction", "rec.").replace("inversion", "inv.")


def _kept_baselines(recipe: AblationRecipe, task: str) -> dict[str, dict[str, float]]:
    path = recipe.run_dir / task / "baselines.json"
    if not path.exists():
        path.write_text(json.dumps(baselines(recipe, task), indent=2) + "\n")
    found: dict[str, dict[str, float]] = json.loads(path.read_text())
    return found


def _kept_selector(
    recipe: AblationRecipe, heads: HeadsRecipe | None
) -> dict[str, dict[str, float]]:
    path = recipe.run_dir / "selector.json"
    if not path.exists():
        found = run_heads(recipe.store, recipe.base, recipe.images, heads)
        path.write_text(json.dumps(found, indent=2) + "\n")
    kept: dict[str, dict[str, float]] = json.loads(path.read_text())
    return kept
