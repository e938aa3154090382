"""`diffplugin train`: recipes from the command line.

Options left out keep the default of the recipe, which is where they are explained.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli_settings import read_settings, read_store_settings
from service.errors import InvalidRequest

train_app = typer.Typer(help="Train the base, a plugin or the selector.", no_args_is_help=True)

Folder = Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of photos.")]
HeldOut = Annotated[
    Path | None, typer.Option(exists=True, file_okay=False, help="Photos of the sample sheets.")
]
RunDir = Annotated[Path | None, typer.Option(help="Checkpoint and sheets; training resumes here.")]
Steps = Annotated[int | None, typer.Option(min=0, help="Optimiser steps in all.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Crops per step.")]
Size = Annotated[int | None, typer.Option(min=32, help="Side of a crop in pixels.")]
Lr = Annotated[float | None, typer.Option(help="Peak learning rate.")]
NumWorkers = Annotated[int | None, typer.Option(min=0, help="Processes that degrade photos.")]
Seed = Annotated[int | None, typer.Option(help="Of weights, crops and degradations.")]
Precision = Annotated[str | None, typer.Option(help="auto (the fastest here), no, fp16 or bf16.")]
Curves = Annotated[bool, typer.Option(help="Write TensorBoard curves to the run folder.")]
BaseName = Annotated[str | None, typer.Option(help="Base model in plugins_store.")]


@train_app.command("base")
def train_base_command(
    images: Folder,
    held_out: HeldOut = None,
    run_dir: RunDir = None,
    out: Annotated[Path | None, typer.Option(help="Default: nano in the plugins store.")] = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    size: Size = None,
    final_batch_size: BatchSize = None,
    final_size: Size = None,
    lr: Lr = None,
    num_workers: NumWorkers = None,
    seed: Seed = None,
    mixed_precision: Precision = None,
    tensorboard: Curves = False,
) -> None:
    """Train the base on every degradation, or go on; then write it to --out."""
    from service.training.train_base import BaseRecipe, save_base, train_base

    chosen = _given(
        steps=steps,
        batch_size=batch_size,
        size=size,
        final_batch_size=final_batch_size,
        final_size=final_size,
        lr=lr,
        num_workers=num_workers,
        seed=seed,
        mixed_precision=mixed_precision,
        tensorboard=tensorboard,
    )
    recipe = BaseRecipe(
        images=images, run_dir=run_dir or Path("runs/base"), held_out=held_out, **chosen
    )
    folder = out or read_settings().plugins_store / "nano"
    save_base(train_base(recipe), folder)
    print(f"wrote {folder}")


@train_app.command("plugin")
def train_plugin_command(
    name: str,
    images: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Clean photos to damage.")
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="CSV of two columns, input and target."),
    ] = None,
    held_out: HeldOut = None,
    run_dir: RunDir = None,
    title: Annotated[str | None, typer.Option(help="What it does, e.g. Remove rain.")] = None,
    example: Annotated[
        list[str] | None, typer.Option(help="A sentence that asks for it; repeat it.")
    ] = None,
    degradation: Annotated[
        str | None, typer.Option(help="What damages the photos, one or more with commas; or NAME.")
    ] = None,
    base: BaseName = None,
    pattern: Annotated[str | None, typer.Option(help="Only photos named like this.")] = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    size: Size = None,
    lr: Lr = None,
    stage_steps: Annotated[
        int | None, typer.Option(min=0, help="Of the output stage; 0: without one.")
    ] = None,
    stage_pairs: Annotated[
        int | None, typer.Option(min=1, help="Restored crops that the output stage learns from.")
    ] = None,
    tone_steps: Annotated[
        int | None, typer.Option(min=0, help="Of the output stage's tone, before the rest of it.")
    ] = None,
    tone_pairs: Annotated[
        int | None, typer.Option(min=1, help="Restored photos that the tone learns from.")
    ] = None,
    fine_tune: Annotated[
        bool, typer.Option("--fine-tune", help="Start from the installed plugin NAME.")
    ] = False,
    stage_from: Annotated[
        str | None, typer.Option(help="Plugin whose output stage is the start of this one's.")
    ] = None,
    default_steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps.")] = None,
    num_shifts: Annotated[
        int | None, typer.Option(min=1, max=4, help="Shifted copies that are averaged.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="Of the plugin, e.g. 1.1.0.")] = None,
    num_workers: NumWorkers = None,
    seed: Seed = None,
    mixed_precision: Precision = None,
    tensorboard: Curves = False,
) -> None:
    """Train the plugin NAME on a frozen base, or go on; then install it in the plugins store."""
    from service.training.train_plugin import PluginRecipe, defaults_of, train_plugin

    settings = read_store_settings(base=base)
    if (images is None) == (pairs is None):
        raise InvalidRequest("give either --images, clean photos to damage, or --pairs, a CSV")
    degradations = (degradation or name).split(",")
    for task in degradations if images else ():
        _check_degradation(task)
    found_title, examples = _texts(degradations[0], title, example)
    chosen = _given(
        degradation=degradation,
        pattern=pattern,
        steps=steps,
        batch_size=batch_size,
        size=size,
        lr=lr,
        stage_steps=stage_steps,
        stage_pairs=stage_pairs,
        tone_steps=tone_steps,
        tone_pairs=tone_pairs,
        fine_tune=fine_tune,
        stage_from=stage_from,
        default_steps=default_steps,
        num_shifts=num_shifts,
        version=version,
        num_workers=num_workers,
        seed=seed,
        mixed_precision=mixed_precision,
        tensorboard=tensorboard,
    )
    recipe = PluginRecipe(
        name=name,
        images=images,
        pairs=pairs,
        store=settings.plugins_store,
        run_dir=run_dir or Path("runs") / f"plugin_{name}{'_fine_tuned' if fine_tune else ''}",
        title=found_title,
        example_instructions=examples,
        base=settings.base,
        held_out=held_out,
        **{**defaults_of(settings.plugins_store / settings.base), **chosen},
    )
    manifest = train_plugin(recipe)
    print(f"installed {manifest.name} {manifest.version} ({manifest.digest})")


@train_app.command("selector")
def train_selector_command(
    source: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="A sentence encoder (BERT) to start from."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the selector that is there.")] = False,
    images: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Photos: train the visual head on them."),
    ] = None,
    base: BaseName = None,
    steps: Steps = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Sentences per step.")] = None,
    lr: Lr = None,
    max_minutes: Annotated[float | None, typer.Option(help="End earlier, fully decayed.")] = None,
    seed: Seed = None,
) -> None:
    """Train the base's selector: on generated sentences (--source, --resume), on --images."""
    settings = read_store_settings(base=base)
    store = settings.plugins_store
    if source is None and not resume and images is None:
        raise InvalidRequest("give --source (a sentence encoder), --resume or --images")
    if source or resume:
        from service.training.train_selector import SelectorRecipe, train_selector

        folder = store / settings.base / "selector"
        chosen = _given(
            steps=steps, batch_size=batch_size, lr=lr, max_minutes=max_minutes, seed=seed
        )
        print(train_selector(folder, source or folder, SelectorRecipe(**chosen), resume))
    if images:
        from service.training.train_vp import train_vp

        print(train_vp(store, settings.base, images, seed=seed or 0))


def _check_degradation(task: str) -> None:
    from service.training.degradations import NAMES

    if task not in NAMES:
        raise InvalidRequest(
            f"nothing damages photos for {task!r}: give a --degradation, one of {', '.join(NAMES)}"
        )


def _texts(task: str, title: str | None, examples: list[str] | None) -> tuple[str, tuple[str, ...]]:
    """Title and example instructions; those of a known task where they are not given."""
    from service.training.tasks import TASK_TEXTS

    known = TASK_TEXTS.get(task)
    if known is None and not (title and examples):
        raise InvalidRequest(f"{task!r} is a new task: give a --title and at least one --example")
    return (
        title or (known.title if known else ""),
        tuple(examples or (known.example_instructions if known else ())),
    )


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
