"""Train and measure every variant, one after the other; what is done is not done again.

Each variant of each task writes one JSON into the run folder. A run that is stopped, or ends
after `max_minutes`, goes on at the next call.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from service.errors import InvalidRequest
from service.evaluation.ablations.placement import Place, places
from service.evaluation.ablations.variants import (
    REGRESSION_WIDTHS,
    Design,
    DiffusionVariant,
    RegressionUNet,
    Restoring,
)
from service.evaluation.cases import Case, choose_photos, synthetic_cases
from service.evaluation.classical import classical_methods
from service.evaluation.measured import quality
from service.models.backbone import Backbone
from service.training import loop
from service.training.degradations import Image
from service.training.photos import CropSettings, PairDataset, read_photos

REGRESSION, RECONSTRUCTION, FULL = "regression U-Net", "TPB + SCB (reconstruction)", "TPB + SCB"
SAMPLER_STEPS = 2  # the default of nano's plugins
FULL_PLACE = Place("D", 1)


@dataclass(frozen=True)
class AblationRecipe:
    """What is trained on what; every variant sees the same crops in the same order."""

    images: Path
    held_out: Path
    store: Path
    base: str
    run_dir: Path
    tasks: tuple[str, ...] = ("derain", "lowlight")
    steps: int = 200
    batch_size: int = 4
    size: int = 96
    lr: float = 6e-4
    num_photos: int = 200
    num_held_out: int = 16
    held_out_size: int = 256
    seed: int = 0
    regression_widths: tuple[int, ...] = REGRESSION_WIDTHS


def designs(backbone: Backbone) -> dict[str, Design]:
    """Every variant of the diffusion model by name; each trains alone but what shares weights."""
    table_3 = {
        "inversion + editing": Design("prompt", inverted=True),
        "TPB": Design("tpb"),
        "TPB + inversion": Design("tpb", inverted=True),
        "SCB": Design("none", FULL_PLACE),
        RECONSTRUCTION: Design("tpb", FULL_PLACE),
        FULL: Design("tpb", FULL_PLACE),
    }
    table_4 = {
        f"SCB at {place}": Design("tpb", place)
        for place in places(backbone.unet)
        if place != FULL_PLACE
    }
    return {
        **table_3,
        **table_4,
        "SD img2img": Design("prompt"),
        "ControlNet": Design("prompt", control=True),
    }


def run_ablations(recipe: AblationRecipe, max_minutes: float | None = None) -> int:
    """Run what is left, at least one variant; returns how many are left after it."""
    cv2.setNumThreads(1)
    _keep_recipe(recipe)
    backbone = Backbone.load(recipe.store / recipe.base)
    names = [*designs(backbone), REGRESSION]
    left = [
        (task, name)
        for task in recipe.tasks
        for name in names
        if not result_path(recipe, task, name).exists()
    ]
    if not left:
        return 0
    photos = read_photos(choose_photos(recipe.images, limit=recipe.num_photos))
    ends = time.monotonic() + 60 * max_minutes if max_minutes else float("inf")
    for done, (task, name) in enumerate(left, start=1):
        _run_one(recipe, backbone, photos, task, name)
        if time.monotonic() > ends:
            return len(left) - done
    return 0


def results(recipe: AblationRecipe) -> dict[str, dict[str, dict[str, Any]]]:
    """What has been measured so far: by task, then by variant."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted(recipe.run_dir.glob("*/*/result.json")):
        result = json.loads(path.read_text())
        found.setdefault(result["task"], {})[result["variant"]] = result
    return found


def result_path(recipe: AblationRecipe, task: str, name: str) -> Path:
    slug = "".join(c if c.isalnum() else "_" for c in name)
    return recipe.run_dir / task / slug / "result.json"


def _run_one(
    recipe: AblationRecipe,
    backbone: Backbone,
    photos: list[NDArray[np.uint8]],
    task: str,
    name: str,
) -> None:
    torch.manual_seed(recipe.seed)
    path = result_path(recipe, task, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    model = build(recipe, backbone, task, name)
    began = time.monotonic()
    _train(recipe, model, photos, task, name)
    seconds = time.monotonic() - began
    cases = list(held_out_cases(recipe, task))
    outputs = list(restore(model, cases))
    result = {
        "task": task,
        "variant": name,
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "training_s": round(seconds, 1),
        "num_photos": len(cases),
        **_means(cases, outputs),
    }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=2) + "\n")
    partial.replace(path)


def build(
    recipe: AblationRecipe, backbone: Backbone, task: str, name: str
) -> DiffusionVariant | RegressionUNet:
    """A fresh variant; the frozen base is shared."""
    if name == REGRESSION:
        return RegressionUNet(recipe.regression_widths)
    return DiffusionVariant(backbone, recipe.store / recipe.base, task, designs(backbone)[name])


def load_trained(
    recipe: AblationRecipe, backbone: Backbone, task: str, name: str
) -> DiffusionVariant | RegressionUNet:
    """A variant with the weights of its run, for pictures."""
    model = build(recipe, backbone, task, name)
    for checkpoint in sorted(_run_dir(recipe, task, name).rglob("checkpoint.pt")):
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        model.load_state_dict(state["ema"], strict=False)
    model.eval()
    return model


def held_out_cases(recipe: AblationRecipe, task: str) -> Iterator[Case]:
    photos = choose_photos(recipe.held_out, limit=recipe.num_held_out)
    return synthetic_cases(photos, task, recipe.held_out_size, recipe.seed)


def restore(model: Restoring, cases: list[Case]) -> Iterator[Image]:
    for case in cases:
        image = torch.from_numpy(case.input).permute(2, 0, 1)[None] * 2 - 1
        output = model.restore(image, SAMPLER_STEPS)[0] / 2 + 0.5
        yield np.ascontiguousarray(output.permute(1, 2, 0).numpy())


def baselines(recipe: AblationRecipe, task: str) -> dict[str, dict[str, float]]:
    """The damaged photos as they are, and after every classical method."""
    cases = list(held_out_cases(recipe, task))
    found = {"input": _means(cases, [case.input for case in cases])}
    for name, run in classical_methods(task).items():
        found[name] = _means(cases, [run(case.input) for case in cases])
    return found


def _train(
    recipe: AblationRecipe,
    model: DiffusionVariant | RegressionUNet,
    photos: list[NDArray[np.uint8]],
    task: str,
    name: str,
) -> None:
    run_dir = _run_dir(recipe, task, name)
    if name != RECONSTRUCTION:
        if any(p.requires_grad for p in model.parameters()):
            _fit(recipe, model, photos, task, run_dir, recipe.steps)
        return
    assert isinstance(model, DiffusionVariant) and model.scb is not None
    design, half = model.design, recipe.steps // 2
    model.design, model.reconstructs = replace(design, tokens="none"), True
    model.tpb.requires_grad_(False)
    _fit(recipe, model, photos, task, run_dir / "1_scb", half)
    model.design, model.reconstructs = design, False
    model.scb.requires_grad_(False)
    model.tpb.requires_grad_(True)
    _fit(recipe, model, photos, task, run_dir / "2_tpb", half)
    model.scb.requires_grad_(True)


def _fit(
    recipe: AblationRecipe,
    model: DiffusionVariant | RegressionUNet,
    photos: list[NDArray[np.uint8]],
    task: str,
    run_dir: Path,
    steps: int,
) -> None:
    def open_batches(stream: int) -> DataLoader[tuple[Tensor, Tensor, int]]:
        crop = CropSettings(size=recipe.size)
        dataset = PairDataset(photos, {task: 1.0}, crop, (recipe.seed, stream))
        return DataLoader(dataset, recipe.batch_size)

    settings = loop.LoopSettings(
        steps,
        recipe.lr,
        warmup=min(30, steps),
        ema_decay=0.99,
        mixed_precision="no",
        checkpoint_every=50,
    )
    loop.run(model, open_batches, settings, run_dir, lambda model, path: None)


def _run_dir(recipe: AblationRecipe, task: str, name: str) -> Path:
    """Inversion changes where sampling starts, not the training: it shares the weights."""
    return result_path(recipe, task, name.removesuffix(" + inversion")).parent


def _means(cases: list[Case], outputs: list[Image]) -> dict[str, float]:
    rows = [quality("", o, c.target) for o, c in zip(outputs, cases, strict=True)]
    return {name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}


def _keep_recipe(recipe: AblationRecipe) -> None:
    """Results of one folder are comparable: InvalidRequest if it was begun with other settings.

    The tasks may differ, each has its own results.
    """
    path = recipe.run_dir / "recipe.json"
    settings = asdict(recipe)
    del settings["tasks"]
    text = json.dumps(settings, default=str, indent=1)
    if path.exists() and path.read_text() != text:
        raise InvalidRequest(
            f"{recipe.run_dir} was begun with other settings (see recipe.json in it): "
            "give the same ones, or another --run-dir"
        )
    recipe.run_dir.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
