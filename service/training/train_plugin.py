"""`diffplugin train plugin NAME`: TPB, SCB and output stage of one task on a frozen base.

The first two are the paper's (section 3.3); the output stage comes after them.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from diffusers import DDIMScheduler
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

from service.errors import InvalidRequest
from service.models.architectures import read_config
from service.models.backbone import Backbone
from service.models.base_files import find_base
from service.models.codec import PatchCodec
from service.models.output_stage import OutputStage
from service.models.plugin import Plugin, save_plugin
from service.models.scb import SCB, SCBConfig
from service.models.tone import Tone
from service.models.tpb import TPB
from service.plugin_manifest import (
    WEIGHTS,
    OutputStageConfig,
    PluginManifest,
    plugin_folder,
    read_manifest,
)
from service.training import loop
from service.training.degradations import GENERATION, MIXTURES
from service.training.first_plugin import FirstPlugin, HalfUndone, half_undone
from service.training.latent_restorer import DEFAULTS, LatentRestorer
from service.training.photos import CropSettings
from service.training.plugin_data import DamagedPhotos, PluginData, TablePairs
from service.training.restorer import Restorer
from service.training.sheets import SampleSheet
from service.training.train_stage import Batches, StageSettings, train_stage

STARTS = "plugin_starts.safetensors"
WHOLE_SIDE = 256  # of a whole photo from which a tone is learned, at least


@dataclass(frozen=True)
class PluginRecipe:
    """What is trained on what, for how long.

    `fine_tune`: TPB, SCB and output stage start from those of the installed plugin of this name.
    `stage_from`: the installed plugin whose output stage is this one's start; empty: a fresh one,
    or with `fine_tune` its own.
    `degradation`: names with commas between, a name twice for twice as often; empty: the plugin's.
    `pairs`: a CSV of inputs and targets instead of `images`.
    """

    name: str
    images: Path | None
    store: Path
    run_dir: Path
    title: str
    example_instructions: tuple[str, ...]
    degradation: str = ""
    pairs: Path | None = None
    base: str = "nano"
    held_out: Path | None = None
    pattern: str = "*"
    steps: int = 2000
    batch_size: int = 4
    size: int = 192
    lr: float = 6e-4
    warmup: int = 50
    stage_steps: int = 1000
    stage_pairs: int = 800
    tone_steps: int = 1000
    tone_pairs: int = 800
    fine_tune: bool = False
    stage_from: str = ""
    default_steps: int = 1
    num_shifts: int = 2
    version: str = "1.0.0"
    licence: str = "Apache-2.0"
    num_workers: int = 0
    seed: int = 0
    mixed_precision: str = "auto"
    tensorboard: bool = False
    sheet_size: int = 192

    @property
    def degradations(self) -> list[str]:
        if self.pairs:
            return [self.name]
        return (self.degradation or self.name).split(",")

    @property
    def first_tasks(self) -> dict[int, str]:
        """Of every mixture whose first task is another plugin's, that task, by its index."""
        names = enumerate(dict.fromkeys(self.degradations))
        found = {index: name.split("+")[0] for index, name in names if name in MIXTURES}
        return {index: task for index, task in found.items() if task != self.name}

    @property
    def stage_start(self) -> str:
        return self.stage_from or (self.name if self.fine_tune else "")

    def folder(self, plugin: str) -> Path:
        return plugin_folder(self.store, self.base, plugin)


def train_plugin(recipe: PluginRecipe) -> PluginManifest:
    """Train or resume, then write the plugin into the store; returns its manifest."""
    torch.manual_seed(recipe.seed)
    data = open_data(recipe)
    backbone = Backbone.load(recipe.store / recipe.base)
    model = build_model(recipe, backbone)
    first = first_plugins(recipe, backbone)
    sheet = SampleSheet(data.samples(recipe.sheet_size), list(data.tasks))
    sheet.images = half_undone(sheet.images, sheet.indices, first)
    recipe.run_dir.mkdir(parents=True, exist_ok=True)
    (recipe.run_dir / "recipe.json").write_text(json.dumps(asdict(recipe), default=str, indent=1))

    def opener(crop: CropSettings) -> Batches:
        def open_batches(stream: int) -> HalfUndone:
            crops = data.crops(crop, (recipe.seed, stream))
            loader = DataLoader(crops, recipe.batch_size, num_workers=recipe.num_workers)
            return HalfUndone(loader, first)

        return open_batches

    settings = loop.LoopSettings(
        recipe.steps,
        recipe.lr,
        recipe.warmup,
        mixed_precision=recipe.mixed_precision,
        tensorboard=recipe.tensorboard,
        seed=recipe.seed,
    )
    loop.run(model, opener(CropSettings(recipe.size)), settings, recipe.run_dir, sheet.draw)
    stage = None
    if recipe.stage_steps:
        stage = train_stage(
            model,
            build_stage(recipe),
            # Smaller by a shift, so that shifted copies need no padding.
            opener(CropSettings(recipe.size - model.patch_size // 2, clean_share=0.12)),
            opener(CropSettings(max(recipe.size, WHOLE_SIDE), clean_share=0.12, whole=True)),
            list(data.tasks),
            StageSettings(
                recipe.stage_steps,
                recipe.stage_pairs,
                recipe.tone_steps,
                recipe.tone_pairs,
                num_steps=recipe.default_steps,
                num_shifts=recipe.num_shifts,
                seed=recipe.seed,
            ),
            recipe.run_dir / "stage",
            sheet.draw,
        )
    process = PartialState()
    if process.is_main_process:
        save(model, stage, recipe, data.description)
    process.wait_for_everyone()
    return read_manifest(recipe.folder(recipe.name))


def open_data(recipe: PluginRecipe) -> PluginData:
    """Photos to damage or pairs, as the recipe says."""
    if recipe.pairs:
        return TablePairs(recipe.pairs, recipe.name)
    if recipe.images is None:
        raise InvalidRequest("give --images, clean photos to damage, or --pairs, a CSV")
    tasks = Counter(recipe.degradations)
    return DamagedPhotos(recipe.images, recipe.pattern, tasks, recipe.held_out)


def build_model(recipe: PluginRecipe, backbone: Backbone) -> Restorer:
    """The frozen base and one trainable plugin.

    It begins at the installed one if that is fine-tuned, else at the base's starts if it has any.
    """
    is_latent = predicts_noise(backbone.scheduler_config)
    if is_latent == isinstance(backbone.vae, PatchCodec):
        raise ValueError(
            f"plugins of base {recipe.base!r} cannot be trained here: there are objectives for a "
            "base with a PatchCodec that predicts the sample, and a base with a VAE that predicts "
            "noise"
        )
    unet = dict(backbone.unet.config)
    scb = SCB(SCBConfig.from_unet(unet, output_skip=not is_latent))
    tpb = TPB(backbone.image_encoder.config.hidden_size, unet["cross_attention_dim"])
    starts = recipe.store / recipe.base / STARTS
    if recipe.fine_tune:
        installed = Plugin.load(recipe.folder(recipe.name), backbone).requires_grad_(True)
        scb, tpb = installed.scb, installed.tpb
    elif starts.exists():
        _load_starts(load_file(starts), recipe.degradations[0], scb, tpb)
    return _restorer(backbone, scb, dict.fromkeys(recipe.degradations, tpb))


def first_plugins(recipe: PluginRecipe, backbone: Backbone) -> dict[int, FirstPlugin]:
    """What the pairs of a mixture are first run through, by the task's index."""
    found = {}
    for index, task in recipe.first_tasks.items():
        plugin = Plugin.load(recipe.folder(task), backbone)
        found[index] = FirstPlugin(_restorer(backbone, plugin.scb, {task: plugin.tpb}), plugin)
    return found


def _restorer(backbone: Backbone, scb: SCB, tpbs: dict[str, TPB]) -> Restorer:
    is_latent = predicts_noise(backbone.scheduler_config)
    return (LatentRestorer if is_latent else Restorer)(
        backbone.unet,
        backbone.image_encoder,
        backbone.vae,
        DDIMScheduler.from_config(backbone.scheduler_config),
        scb,
        tpbs,
    )


def predicts_noise(scheduler_config: Mapping[str, Any]) -> bool:
    return bool(scheduler_config.get("prediction_type", "epsilon") == "epsilon")


def defaults_of(root: Path) -> dict[str, Any]:
    """What a recipe for the base at `root` differs in from PluginRecipe's own defaults."""
    config = read_config(find_base(root).part("scheduler"), "scheduler_config.json")
    return dict(DEFAULTS) if predicts_noise(config) else {}


def build_stage(recipe: PluginRecipe) -> OutputStage:
    """A fresh output stage, or a copy of another plugin's."""
    makes_of_noise = not GENERATION.keys().isdisjoint(recipe.degradations)
    config = OutputStageConfig(noise=makes_of_noise, levels=True, mirrored=not makes_of_noise)
    stage = OutputStage(config)
    if recipe.stage_start:
        other = recipe.folder(recipe.stage_start) / WEIGHTS
        start = {**stage.state_dict(), **_below(load_file(other), "stage.")}
        stage.load_state_dict(start)  # one whose tone sees no levels learns them anew
    if recipe.tone_steps:  # one that goes on from another's weights overfits sooner
        stage.tone = Tone(config.levels)
    return stage


def _load_starts(state: dict[str, Tensor], task: str, scb: SCB, tpb: TPB) -> None:
    """The base's shared SCB, and its TPB of this task or, for a new task, the mean of all."""
    scb.load_state_dict(_below(state, "scb."))
    tasks = sorted({key.split(".")[1] for key in state if key.startswith("tpb.")})
    chosen = [task] if task in tasks else tasks
    every = [_below(state, f"tpb.{name}.") for name in chosen]
    tpb.load_state_dict({k: torch.stack([s[k] for s in every]).mean(0) for k in every[0]})


def _below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v.float() for k, v in state.items() if k.startswith(prefix)}


def save(
    model: Restorer, stage: OutputStage | None, recipe: PluginRecipe, data: str
) -> PluginManifest:
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
        output_stage=stage.config if stage else None,
        licence=recipe.licence,
        digest="sha256:" + 64 * "0",
    )
    tpb = model.tpbs[recipe.degradations[0]]
    assert isinstance(tpb, TPB)
    folder = recipe.folder(recipe.name)
    return save_plugin(folder, tpb, model.scb, manifest, _card(recipe, data), stage)


def _card(recipe: PluginRecipe, data: str) -> str:
    start = "the installed plugin" if recipe.fine_tune else f"the base's `{STARTS}`"
    return f"""# {recipe.name}: {recipe.title}

A Task-Plugin (TPB and SCB) for base `{recipe.base}`, version {recipe.version}, {recipe.licence}.

## Recipe
`diffplugin train plugin {recipe.name}`: {recipe.steps} steps of AdamW at {recipe.lr:g} (linear fall
over the last 35 %), batches of {recipe.batch_size} crops of {recipe.size} px, EMA 0.999, the base
frozen, start from {start}, seed {recipe.seed}.
{_stage_line(recipe)}
## Data
{data}
{_first_lines(recipe)}
## Limits
{"Trained on these pairs only." if recipe.pairs else "Trained on synthetic degradations only."}
"""


def _first_lines(recipe: PluginRecipe) -> str:
    tasks = recipe.first_tasks.values()
    return "".join(f"Mixtures with {task} were first run through `{task}`.\n" for task in tasks)


def _stage_line(recipe: PluginRecipe) -> str:
    if not recipe.stage_steps:
        return ""
    start = f", from that of {recipe.stage_start}" if recipe.stage_start else ""
    return (
        f"Then the output stage{start}: {recipe.stage_steps} steps of 4 of "
        f"{recipe.stage_pairs} restored crops,\nits tone before them on "
        f"{recipe.tone_pairs} restored photos.\n"
    )
