"""`diffplugin train base`: UNet, image encoder and plugin starts, jointly on every degradation."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from service.models.backbone import channels_last
from service.training import loop, nano
from service.training.degradations import TASKS
from service.training.photos import CropSettings, PairDataset, find_photos, read_photos
from service.training.restorer import CLIP_MEAN, CLIP_STD, Restorer
from service.training.sheets import SampleSheet, damaged_samples

# The generation tasks have random targets and teach the shared weights least.
TASK_WEIGHTS = {task: 1.0 for task in TASKS} | {
    "derain": 2.0, "desnow": 2.0, "dehaze": 2.0, "lowlight": 2.0, "snow": 0.4, "rain": 0.4
}  # fmt: skip


@dataclass(frozen=True)
class BaseRecipe:
    """What is trained on what, for how long.

    While the learning rate falls, crops have final_size: photos are served whole, so the networks
    must have seen more than small crops.
    """

    images: Path
    run_dir: Path
    held_out: Path | None
    steps: int = 20_000
    batch_size: int = 8
    size: int = 128
    final_batch_size: int = 4
    final_size: int = 192
    lr: float = 8e-4
    warmup: int = 200
    channels: tuple[int, ...] = (128, 192)
    num_workers: int = 1
    seed: int = 0
    mixed_precision: str = "auto"
    tensorboard: bool = False
    sheet_size: int = 192


def train_base(recipe: BaseRecipe) -> Restorer:
    """Train or resume the joint model; it comes back with its EMA weights."""
    torch.manual_seed(recipe.seed)
    paths = find_photos(recipe.images)
    photos = read_photos(paths)
    unet = nano.build_unet(nano.NanoSize(recipe.channels))
    model = Restorer(
        unet,
        nano.build_image_encoder(),
        nano.fit_codec(photos),
        nano.build_scheduler(),
        nano.build_scb(unet),
        {task: nano.build_tpb() for task in TASKS},
    )
    channels_last(model)
    held_out = find_photos(recipe.held_out) if recipe.held_out else paths
    sheet = SampleSheet(
        damaged_samples(held_out, list(TASKS), recipe.sheet_size, num_photos=2), list(TASKS)
    )
    recipe.run_dir.mkdir(parents=True, exist_ok=True)
    (recipe.run_dir / "recipe.json").write_text(json.dumps(asdict(recipe), default=str, indent=1))
    settings = loop.LoopSettings(
        recipe.steps,
        recipe.lr,
        recipe.warmup,
        mixed_precision=recipe.mixed_precision,
        tensorboard=recipe.tensorboard,
        seed=recipe.seed,
    )
    fall = round(recipe.steps * (1 - settings.decay_share))
    for size, batch_size, stop_at in (
        (recipe.size, recipe.batch_size, fall),
        (recipe.final_size, recipe.final_batch_size, recipe.steps),
    ):
        open_batches = _opener(photos, recipe, CropSettings(size=size), batch_size)
        loop.run(model, open_batches, settings, recipe.run_dir, sheet.draw, stop_at)
    return model


def _opener(
    photos: list[NDArray[np.uint8]], recipe: BaseRecipe, crop: CropSettings, batch_size: int
) -> Callable[[int], DataLoader[tuple[Tensor, Tensor, int]]]:
    def open_batches(stream: int) -> DataLoader[tuple[Tensor, Tensor, int]]:
        dataset = PairDataset(photos, TASK_WEIGHTS, crop, (recipe.seed, stream))
        return DataLoader(dataset, batch_size, num_workers=recipe.num_workers)

    return open_batches


def save_base(model: Restorer, folder: Path) -> None:
    """Write the base in the diffusers layout, fp16, with the starts of its plugins beside it."""
    model.codec.save_pretrained(folder / "vae")
    model.unet.half().save_pretrained(folder / "unet")
    model.image_encoder.half().save_pretrained(folder / "image_encoder")
    model.scheduler.save_pretrained(folder / "scheduler")
    _save_preprocessor(model.image_encoder.config.image_size, folder / "feature_extractor")
    starts = {f"scb.{k}": v for k, v in model.scb.state_dict().items()}
    starts |= {f"tpb.{k}": v for k, v in model.tpbs.state_dict().items()}
    save_file(
        {k: v.half().contiguous() for k, v in starts.items()}, folder / "plugin_starts.safetensors"
    )
    model.float()


def _save_preprocessor(size: int, folder: Path) -> None:
    """CLIPImageProcessor's file; its class is not used, as it asks for torchvision."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "resample": 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(config, indent=2) + "\n")
