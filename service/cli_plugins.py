"""`diffplugin plugins`: list, show and verify what is installed, without loading a model."""

import json
from typing import Annotated

import typer

from service.cli_fleet import fleet, publish, remove
from service.cli_models import import_plugins
from service.cli_queue import AsJson
from service.cli_settings import check_installed, read_store_settings
from service.plugin_manifest import (
    WEIGHTS,
    installed_plugins,
    plugin_folder,
    read_manifest,
    weights_digest,
)
from service.settings import Settings

plugins_app = typer.Typer(help="Look after the plugins.", no_args_is_help=True)
plugins_app.command("import")(import_plugins)
plugins_app.command("publish")(publish)
plugins_app.command("remove")(remove)
plugins_app.command("fleet")(fleet)

Base = Annotated[str | None, typer.Option(help="Base model in plugins_store.")]


@plugins_app.command("list")
def list_plugins(base: Base = None, as_json: AsJson = False) -> None:
    """One line per installed plugin."""
    settings = read_store_settings(base=base)
    manifests = installed_plugins(settings.plugins_store, settings.base)
    if as_json:
        print(json.dumps([m.model_dump(mode="json") for m in manifests.values()], indent=2))
        return
    for m in manifests.values():
        print(f"{m.name:<12} {m.version:<8} {m.default_steps:>3} steps  {m.licence:<16} {m.title}")


@plugins_app.command()
def show(name: str, base: Base = None) -> None:
    """The manifest of one plugin, and where it lies."""
    settings = read_store_settings(base=base)
    check_installed(settings, [name])
    folder = plugin_folder(settings.plugins_store, settings.base, name)
    print(f"{folder}\n{read_manifest(folder).model_dump_json(indent=2)}")


@plugins_app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Default: all.")] = None,
    base: Base = None,
) -> None:
    """Check that weights are the ones the manifests name; exit code 1 if some are not."""
    settings = read_store_settings(base=base)
    chosen = names or list(installed_plugins(settings.plugins_store, settings.base))
    check_installed(settings, chosen)
    faults = {name: _find_fault(settings, name) for name in chosen}
    for name, fault in faults.items():
        print(f"{name:<12} {fault or 'ok'}")
    if any(faults.values()):
        raise typer.Exit(1)


def _find_fault(settings: Settings, name: str) -> str:
    """What is wrong with the plugin's files; empty if nothing is."""
    folder = plugin_folder(settings.plugins_store, settings.base, name)
    expected = read_manifest(folder).digest
    if not (folder / WEIGHTS).is_file():
        return f"BAD: {folder / WEIGHTS} is missing"
    found = weights_digest(folder)
    if found != expected:
        return f"BAD: {WEIGHTS} is {found}, the manifest says {expected}; install it anew"
    return ""
