"""`diffplugin train plugin NAME`: TPB and SCB of one task on a frozen base (paper section 3.3)."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

from service.models.backbone import Backbone
from service.models.codec import PatchCodec
from service.models.plugin import save_plugin
from service.models.scb import SCB, SCBConfig
from service.models.tpb import TPB
from service.plugin_manifest import PluginManifest, plugin_folder
from service.training import loop
from service.training.photos import CropSettings, PairDataset, find_photos, read_photos
from service.training.restorer import Restorer
from service.training.sheets import SampleSheet


@dataclass(frozen=True)
class PluginRecipe:
    """What is trained on what, for how long; `degradation` empty: the one named as the plugin."""

    name: str
    images: Path
    store: Path
    run_dir: Path
    title: str
    example_instructions: tuple[str, ...]
    degradation: str = ""
    base: str = "nano"
    held_out: Path | None = None
    pattern: str = "*"
    steps: int = 2000
    batch_size: int = 4
    size: int = 192
    lr: float = 6e-4
    warmup: int = 50
    default_steps: int = 2
    num_shifts: int = 2
    version: str = "1.0.0"
    licence: str = "Apache-2.0"
    num_workers: int = 0
    seed: int = 0
    mixed_precision: str = "bf16"
    sheet_size: int = 192

    @property
    def degradation_name(self) -> str:
        return self.degradation or self.name


def train_plugin(recipe: PluginRecipe) -> PluginManifest:
    """Train or resume, then write the plugin into the store; returns its manifest."""
    torch.manual_seed(recipe.seed)
    paths = find_photos(recipe.images, recipe.pattern)
    photos = read_photos(paths)
    model = build_model(recipe)
    held_out = find_photos(recipe.held_out, recipe.pattern) if recipe.held_out else paths
    sheet = SampleSheet(held_out, [recipe.degradation_name], recipe.sheet_size, num_photos=8)
    recipe.run_dir.mkdir(parents=True, exist_ok=True)
    (recipe.run_dir / "recipe.json").write_text(json.dumps(asdict(recipe), default=str, indent=1))
    tasks, crop = {recipe.degradation_name: 1.0}, CropSettings(size=recipe.size)

    def open_batches(stream: int) -> DataLoader[tuple[Tensor, Tensor, int]]:
        dataset = PairDataset(photos, tasks, crop, (recipe.seed, stream))
        return DataLoader(dataset, recipe.batch_size, num_workers=recipe.num_workers)

    settings = loop.LoopSettings(
        recipe.steps,
        recipe.lr,
        recipe.warmup,
        mixed_precision=recipe.mixed_precision,
        seed=recipe.seed,
    )
    loop.run(model, open_batches, settings, recipe.run_dir, sheet.draw)
    return save(model, recipe, len(paths))


def build_model(recipe: PluginRecipe) -> Restorer:
    """The frozen base and one trainable plugin, which begins at the base's starts if it has any."""
    folder = recipe.store / recipe.base
    backbone = Backbone.load(folder)
    prediction = backbone.scheduler_config.get("prediction_type", "epsilon")
    if prediction != "sample" or not isinstance(backbone.vae, PatchCodec):
        raise ValueError(
            f"plugins of base {recipe.base!r} cannot be trained here: the objective is for a base "
            f"with a PatchCodec that predicts the sample; this one predicts {prediction!r}"
        )
    unet = dict(backbone.unet.config)
    scb = SCB(SCBConfig.from_unet(unet, output_skip=True))
    tpb = TPB(backbone.image_encoder.config.hidden_size, unet["cross_attention_dim"])
    starts = folder / "plugin_starts.safetensors"
    if starts.exists():
        _load_starts(load_file(starts), recipe.degradation_name, scb, tpb)
    return Restorer(
        backbone.unet,
        backbone.image_encoder,
        backbone.vae,
        DDIMScheduler.from_config(backbone.scheduler_config),
        scb,
        {recipe.name: tpb},
    )


def _load_starts(state: dict[str, Tensor], task: str, scb: SCB, tpb: TPB) -> None:
    """The base's shared SCB, and its TPB of this task or, for a new task, the mean of all."""
    scb.load_state_dict(_below(state, "scb."))
    tasks = sorted({key.split(".")[1] for key in state if key.startswith("tpb.")})
    chosen = [task] if task in tasks else tasks
    every = [_below(state, f"tpb.{name}.") for name in chosen]
    tpb.load_state_dict({k: torch.stack([s[k] for s in every]).mean(0) for k in every[0]})


def _below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v.float() for k, v in state.items() if k.startswith(prefix)}


def save(model: Restorer, recipe: PluginRecipe, num_photos: int) -> PluginManifest:
    manifest = PluginManifest(
        name=recipe.name,
        title=recipe.title,
        version=recipe.version,
        base=recipe.base,
        example_instructions=recipe.example_instructions,
        start="image",
        default_steps=recipe.default_steps,
        num_shifts=recipe.num_shifts,
        output_skip=model.scb.config.output_skip,
        licence=recipe.licence,
        digest="sha256:" + 64 * "0",
    )
    tpb = model.tpbs[recipe.name]
    assert isinstance(tpb, TPB)
    folder = plugin_folder(recipe.store, recipe.base, recipe.name)
    return save_plugin(folder, tpb, model.scb, manifest, _card(recipe, num_photos))


def _card(recipe: PluginRecipe, num_photos: int) -> str:
    return f"""# {recipe.name}: {recipe.title}

A Task-Plugin (TPB and SCB) for base `{recipe.base}`, version {recipe.version}, {recipe.licence}.

## Recipe
`diffplugin train plugin {recipe.name}`: {recipe.steps} steps of AdamW at {recipe.lr:g} (linear fall
over the last 35 %), batches of {recipe.batch_size} crops of {recipe.size} px, EMA 0.999, the base
frozen, start from the base's `plugin_starts.safetensors`, seed {recipe.seed}.

## Data
{num_photos} photos, degraded on the fly by `{recipe.degradation_name}` of
`service/training/degradations`.

## Limits
Trained on synthetic degradations only.
"""
