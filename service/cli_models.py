"""`diffplugin plugins import` and `diffplugin models`: what others have released."""

from pathlib import Path
from typing import Annotated

import typer

from service.cli_settings import read_settings

models_app = typer.Typer(help="Look after the bases.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Released layout.")]
Part = typer.Option(exists=True, file_okay=False)
Base = Annotated[str, typer.Option(help="Base in plugins_store; it is made if it is not there.")]


def import_plugins(
    source: Folder,
    base: Base = "sd14",
    diffusion: Annotated[Path | None, Part] = None,
    image_encoder: Annotated[Path | None, Part] = None,
) -> None:
    """Take over plugins in their authors' layout: pre-trained/<task>/scb/, tpb.pt, ...

    Weights are read as data; a file that asks for code is refused. Stable Diffusion (diffusers
    layout) and CLIP are looked for below the same folder, and read where they lie.
    """
    from service.plugin_import import import_released

    store = read_settings().plugins_store
    done = import_released(source, store, base, diffusion, image_encoder)
    for manifest in done.plugins:
        print(f"{manifest.name:<12} {manifest.licence:<16} {manifest.digest}")
    if done.base is not None:
        print(f"base {base}: {done.base.diffusion}, {done.base.image_encoder}")
    selector = "and the selector " if done.has_selector else ""
    print(f"{len(done.plugins)} plugins {selector}are in {store / base}")


@models_app.command()
def fetch(
    base: Annotated[str, typer.Option(help="Base in plugins_store with a base.json.")] = "sd14",
    cache: Annotated[
        Path | None, typer.Option(help="Where to keep the files; default: the hub's own cache.")
    ] = None,
) -> None:
    """Download a base and its CLIP from the hub, and check every file's digest."""
    from service.models_fetch import fetch_base

    for line in fetch_base(read_settings().plugins_store / base, cache):
        print(line)
