"""Versions of plugins on disk: what is published is kept for as long as a job may need it.

plugins/<name>/ holds what is served by default; plugins/<name>/versions/<version>/ what was
published, complete and never changed. No torch and no Redis here.
"""

import json
import os
import shutil
import time
import uuid
from pathlib import Path

from service.errors import InvalidRequest
from service.plugin_manifest import (
    MANIFEST,
    WEIGHTS,
    PluginManifest,
    plugin_folder,
    read_manifest,
    version_folder,
    weights_digest,
)

MAX_HEADER_BYTES = 100_000_000  # the limit of safetensors itself


def check_plugin(folder: Path, base: str) -> PluginManifest:
    """The manifest of a folder that is to be published; says what is wrong with it."""
    if not folder.is_dir():
        raise InvalidRequest(f"{folder} is no folder; name one with {MANIFEST} and {WEIGHTS}")
    manifest = read_manifest(folder, is_named=False)
    if manifest.base != base:
        raise InvalidRequest(f"{folder} was trained on base {manifest.base!r}, not on {base!r}")
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise InvalidRequest(f"{weights} is missing; weights come as safetensors only")
    if not _is_safetensors(weights):
        raise InvalidRequest(f"{weights} is no safetensors file; no other format is loaded")
    if weights_digest(folder) != manifest.digest:
        raise InvalidRequest(
            f"{weights} is not the file that its manifest describes (sha256 differs); "
            "copy both again from one place"
        )
    return manifest


def keep_version(store: Path, folder: Path, manifest: PluginManifest) -> None:
    """Copy a checked folder to its place among the versions; one version is one set of weights."""
    kept = version_folder(store, manifest.base, manifest.name, manifest.version)
    if not kept.is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.parent / f".{uuid.uuid4().hex}"
        shutil.copytree(folder, fresh, ignore=shutil.ignore_patterns("versions"))
        fresh.rename(kept)
    elif read_manifest(kept, is_named=False).digest != manifest.digest:
        raise InvalidRequest(
            f"{manifest.name} {manifest.version} was published with other weights; "
            "raise the version in the manifest"
        )


def keep_default(store: Path, base: str, name: str) -> None:
    """Keep what plugins/<name>/ holds as a version too, before it is replaced or removed."""
    folder = plugin_folder(store, base, name)
    if (folder / MANIFEST).is_file():
        keep_version(store, folder, read_manifest(folder))


def set_default(store: Path, manifest: PluginManifest) -> None:
    """Serve a kept version also where Redis knows of none: after a restart of an empty one."""
    folder = plugin_folder(store, manifest.base, manifest.name)
    kept = version_folder(store, manifest.base, manifest.name, manifest.version)
    for file in sorted(kept.iterdir(), key=lambda file: file.name == MANIFEST):  # the manifest last
        fresh = folder / f".{uuid.uuid4().hex}"
        shutil.copyfile(file, fresh)
        os.replace(fresh, folder / file.name)


def drop_default(store: Path, base: str, name: str) -> None:
    """Serve it no more; its files stay among the versions."""
    folder = plugin_folder(store, base, name)
    for file in (MANIFEST, WEIGHTS):
        (folder / file).unlink(missing_ok=True)


def retire(store: Path, manifest: PluginManifest) -> None:
    """Note that this version is served from now on no more."""
    folder = version_folder(store, manifest.base, manifest.name, manifest.version)
    if folder.is_dir():
        os.utime(folder)


def prune_versions(store: Path, base: str, name: str, served: str, kept_s: float) -> None:
    """Delete versions that were retired longer than `kept_s` ago: no job can need them."""
    for folder in plugin_folder(store, base, name).glob("versions/*"):
        if folder.name != served and time.time() - folder.stat().st_mtime > kept_s:
            shutil.rmtree(folder)


def _is_safetensors(path: Path) -> bool:
    """Whether it begins with a JSON header of the length that its first 8 bytes tell."""
    with path.open("rb") as file:
        num_bytes = int.from_bytes(file.read(8), "little")
        if not 2 <= num_bytes <= MAX_HEADER_BYTES:
            return False
        try:
            return isinstance(json.loads(file.read(num_bytes)), dict)
        except ValueError:
            return False
