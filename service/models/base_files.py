"""Where the parts of a base lie: in its folder of the store, in other folders, in the hub's cache.

A base's folder holds either the parts themselves (unet/, vae/, ...) or a base.json that says
where they are. Nothing is downloaded here; `diffplugin models fetch` does that.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import InvalidCheckpoint

BASE_FILE = "base.json"
DIFFUSION_PARTS = ("unet", "vae", "scheduler")
TEXT_PARTS = ("text_encoder", "tokenizer")  # only the released selector reads them


class BaseSources(BaseModel):
    """base.json. A source is a folder, absolute or relative to base.json, or a hub id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    diffusion: str = Field(description="Diffusers layout: unet/, vae/, scheduler/, text_encoder/.")
    image_encoder: str = Field(description="CLIP in the transformers layout, one tower or two.")
    cache: str = Field("", description="Cache of the hub; empty: its own default (HF_HOME).")
    licence: str = Field("", description="Of the weights, for people.")
    min_side: int = Field(0, ge=0, description="Photos whose shorter side is less are enlarged.")
    renoise_from: int | None = Field(
        None, description="Plugins that start from the image noise it anew at each t from here on."
    )


@dataclass(frozen=True)
class BaseFiles:
    """The folders of one base."""

    root: Path  # its folder in the store
    diffusion: Path
    image_encoder: Path
    preprocessor: Path
    sources: BaseSources | None = None

    def part(self, name: str) -> Path:
        """The folder of a part in the diffusers layout; FileNotFoundError if it is not there."""
        folder = self.diffusion / name
        if not folder.is_dir():
            raise FileNotFoundError(f"{self.diffusion} is not a base: {name}/ is missing")
        return folder


def find_base(root: Path) -> BaseFiles:
    """The parts of the base whose folder in the store is `root`; FileNotFoundError names a gap."""
    if not (root / BASE_FILE).is_file():
        own = BaseFiles(root, root, root / "image_encoder", root / "feature_extractor")
        for part in (*DIFFUSION_PARTS, "image_encoder", "feature_extractor"):
            own.part(part)
        return own
    sources = read_sources(root)
    diffusion = _folder_of(sources.diffusion, root, sources)
    encoder = _folder_of(sources.image_encoder, root, sources)
    files = BaseFiles(root, diffusion, encoder, encoder, sources)
    for part in DIFFUSION_PARTS:
        files.part(part)
    return files


def read_sources(root: Path) -> BaseSources:
    """base.json of a base; InvalidCheckpoint if it is malformed."""
    path = root / BASE_FILE
    try:
        return BaseSources.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InvalidCheckpoint(f"{path} is malformed: {error}") from error


def write_sources(root: Path, sources: BaseSources) -> None:
    root.mkdir(parents=True, exist_ok=True)
    set_only = sources.model_dump(exclude_defaults=True)
    (root / BASE_FILE).write_text(json.dumps(set_only, indent=2) + "\n")


def local_folder(source: str, root: Path) -> Path | None:
    """The folder that a source names; None if it is a hub id."""
    folder = (root / source).resolve()
    return folder if folder.is_dir() else None


def _folder_of(source: str, root: Path, sources: BaseSources) -> Path:
    folder = local_folder(source, root)
    if folder is not None:
        return folder
    try:
        return Path(
            snapshot_download(source, cache_dir=sources.cache or None, local_files_only=True)
        )
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise FileNotFoundError(
            f"base {root.name!r}: {source} is no folder and not in the cache of models; run "
            f"`diffplugin models fetch --base {root.name}`, or write a folder into "
            f"{root / BASE_FILE}"
        ) from error
