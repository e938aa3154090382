"""What a plugin says of itself: plugins_store/<base>/plugins/<name>/manifest.json. No torch here.

The api reads manifests to check names and to list plugins; the models read them to load weights.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import UnknownPlugin

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"


class OutputStageConfig(BaseModel):
    """Shape of a plugin's output stage (service/models/output_stage.py)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    patch_size: int = Field(2, ge=1, description="Pixels per cell of its finest level.")
    channels: tuple[int, ...] = Field(
        (32, 48, 64, 96), min_length=2, description="Widths of its levels, finest first."
    )
    noise: bool = Field(False, description="It sees noise of the edit's seed, and makes of it.")
    levels: bool = Field(False, description="Its tone sees how dark and bright the colours get.")
    mirrored: bool = Field(False, description="It refines the mirror image too: twice, averaged.")


class PluginManifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$", description="Task label, e.g. derain.")
    title: str = Field(description="What it does, for people, e.g. Remove rain.")
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    base: str = Field(description="Name of the base it was trained on.")
    example_instructions: tuple[str, ...] = Field(
        min_length=1, description="Sentences that ask for it; a new plugin is found by these."
    )
    start: Literal["image", "noise"] = Field(
        "image", description="Sampling starts from the noised condition, or from pure noise."
    )
    default_steps: int = Field(20, ge=1, le=1000)
    num_shifts: int = Field(
        1, ge=1, le=4, description="Shifted copies that are restored and averaged; each is a row."
    )
    output_skip: bool = Field(
        False, description="The SCB has a gain head and the output is condition + change."
    )
    output_stage: OutputStageConfig | None = Field(
        None, description="Set: a small network in pixels refines what the base restored."
    )
    licence: str = Field(description="SPDX identifier or sentence.")
    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$", description="Of weights.safetensors.")


@dataclass(frozen=True)
class Published:
    """What was published to a fleet: by name the manifest, or None if the plugin was removed.

    Plugins it does not name are served as they lie in plugins_store.
    """

    generation: int = 0  # changes with every publication
    plugins: Mapping[str, PluginManifest | None] = field(default_factory=dict)

    def over(self, installed: Mapping[str, PluginManifest]) -> dict[str, PluginManifest]:
        """What is served where `installed` lies on disk."""
        served = {**installed, **self.plugins}
        return {name: manifest for name, manifest in sorted(served.items()) if manifest}


def plugin_folder(store: Path, base: str, name: str) -> Path:
    return store / base / "plugins" / name


def version_folder(store: Path, base: str, name: str, version: str) -> Path:
    """Where a published version is kept."""
    return plugin_folder(store, base, name) / "versions" / version


def read_manifest(folder: Path, is_named: bool = True) -> PluginManifest:
    """The manifest in `folder`; UnknownPlugin, with what to mend, if it is absent or malformed.

    `is_named`: the folder must have the plugin's name.
    """
    path = folder / MANIFEST
    try:
        manifest = PluginManifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UnknownPlugin(f"no plugin {folder.name!r} is installed: {path} is missing") from error
    except ValidationError as error:
        raise UnknownPlugin(f"{path} is malformed: {error}") from error
    if is_named and manifest.name != folder.name:
        raise UnknownPlugin(f"{path} names {manifest.name!r}; its folder must have that name")
    return manifest


def installed_plugins(store: Path, base: str) -> dict[str, PluginManifest]:
    """Manifests of every plugin of `base`, by name; a malformed one is logged, not listed."""
    manifests = {}
    for path in sorted((store / base / "plugins").glob("*/manifest.json")):
        try:
            manifests[path.parent.name] = read_manifest(path.parent)
        except UnknownPlugin as error:
            log.warning("a plugin is left out: %s", error)
    return manifests


class InstalledPlugins:
    """installed_plugins(), read again only when a manifest has changed."""

    def __init__(self, store: Path, base: str) -> None:
        self._store, self._base = store, base
        self._stamp: tuple[tuple[str, int], ...] | None = None
        self._manifests: dict[str, PluginManifest] = {}

    def read(self) -> dict[str, PluginManifest]:
        files = sorted((self._store / self._base / "plugins").glob("*/manifest.json"))
        stamp = tuple((file.parent.name, file.stat().st_mtime_ns) for file in files)
        if stamp != self._stamp:
            self._manifests = installed_plugins(self._store, self._base)
            self._stamp = stamp
        return self._manifests


def weights_digest(folder: Path) -> str:
    """sha256 of the weights file as the manifest writes it."""
    with (folder / WEIGHTS).open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
