"""`diffplugin plugins import`: the authors' released layout -> plugins of a base in the store.

Read is, below one folder: <task>/scb/ with <task>/tpb.pt, plugin_selector/ and, if they are there,
Stable Diffusion in the diffusers layout and CLIP. The licence is kept with every plugin.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

from service.errors import InvalidCheckpoint
from service.models.architectures import read_config
from service.models.base_files import BASE_FILE, BaseSources, find_base, read_sources, write_sources
from service.models.checkpoint import SUFFIXES, State, read_state
from service.models.plugin import write_plugin
from service.models.released import read_released_plugin
from service.models.scb import SCBConfig
from service.plugin_manifest import PluginManifest, plugin_folder
from service.selector.released import HEADS, ReleasedConfig, check_heads
from service.training.tasks import TASK_TEXTS

LICENCE = "CC-BY-NC-SA-4.0"
SOURCE = "github.com/yuhaoliu7456/Diff-Plugin"
SELECTOR = "plugin_selector"
# As their demo lists them; what it does not know comes after, by name.
ORDER = ("derain", "desnow", "lowlight", "dehaze", "deblur", "highlight", "face", "demoire")
STARTS_FROM_NOISE = ("lowlight", "highlight")
STEPS = 20
# Stable Diffusion was trained at 512 px; their sampling noises the condition anew from t = 960 on.
MIN_SIDE, RENOISE_FROM = 512, 960


@dataclass(frozen=True)
class Imported:
    """What was written."""

    plugins: tuple[PluginManifest, ...]
    has_selector: bool
    base: BaseSources | None  # None: the base was there already


def import_released(
    source: Path,
    store: Path,
    base: str,
    diffusion: Path | None = None,
    image_encoder: Path | None = None,
    order: Sequence[str] = ORDER,
) -> Imported:
    """Read everything first, then write: a file that is refused leaves the store as it was."""
    tasks = list(_find_tasks(source, order))
    if not tasks:
        raise InvalidCheckpoint(
            f"{source} is not the released layout: no <task>/scb/config.json lies below it"
        )
    read = [(folder.name, *read_released_plugin(folder)) for folder in tasks]
    heads = _read_selector(source)
    root = store / base
    sources = _link_base(source, root, diffusion, image_encoder)
    plugins = tuple(_write(store, base, name, state, config) for name, state, config in read)
    if heads is not None:
        _write_selector(root, heads, tuple(name for name, _, _ in read))
    return Imported(plugins, heads is not None, sources)


def _find_tasks(source: Path, order: Sequence[str]) -> Iterator[Path]:
    """Task folders in `order`, then by name."""
    found = {path.parent.parent.name: path.parent.parent for path in _below(source, "config.json")
             if path.parent.name == "scb"}  # fmt: skip
    ranks = {name: rank for rank, name in enumerate(order)}
    yield from (
        found[name] for name in sorted(found, key=lambda name: (ranks.get(name, len(ranks)), name))
    )


def _below(source: Path, name: str) -> list[Path]:
    return sorted(source.glob(f"**/{name}"))


def _read_selector(source: Path) -> State | None:
    """The selector's heads, if the layout has any."""
    files = [
        path
        for path in _below(source, "*")
        if path.parent.name == SELECTOR and path.suffix in SUFFIXES
    ]
    if not files:
        return None
    state = read_state(files[0])
    check_heads(state, files[0])
    return state


def _link_base(
    source: Path, root: Path, diffusion: Path | None, image_encoder: Path | None
) -> BaseSources | None:
    """base.json, unless the store has this base already; its parts are read where they lie."""
    if (root / "unet").is_dir():
        return None
    diffusion = diffusion or _first(source, lambda folder: (folder / "unet").is_dir())
    # The safety checker of a diffusion folder has a vision tower too.
    inside = (diffusion,) if diffusion else ()
    encoder = image_encoder or _first(
        source, lambda folder: _is_clip(folder) and not set(inside) & set(folder.parents)
    )
    if diffusion is None and encoder is None and (root / BASE_FILE).is_file():
        return None
    if diffusion is None or encoder is None:
        raise InvalidCheckpoint(
            f"{source} holds no {'Stable Diffusion' if diffusion is None else 'CLIP'} and the "
            f"store has no base {root.name!r}; name it by --diffusion and --image-encoder, "
            f"or run `diffplugin models fetch --base {root.name}` before"
        )
    places = {"diffusion": str(diffusion.resolve()), "image_encoder": str(encoder.resolve())}
    if (root / BASE_FILE).is_file():
        sources = read_sources(root).model_copy(update=places)
    else:
        sources = BaseSources(**places, min_side=MIN_SIDE, renoise_from=RENOISE_FROM)
    write_sources(root, sources)
    find_base(root)
    return sources


def _first(source: Path, matches: Callable[[Path], bool]) -> Path | None:
    folders = [source, *(path for path in sorted(source.glob("**/")) if path.is_dir())]
    return next((folder for folder in folders if matches(folder)), None)


def _is_clip(folder: Path) -> bool:
    """A CLIP that has a vision tower."""
    if not (folder / "config.json").is_file():
        return False
    config = read_config(folder)
    return "vision_config" in config or config.get("model_type") == "clip_vision_model"


def _write(store: Path, base: str, name: str, state: State, config: SCBConfig) -> PluginManifest:
    text = TASK_TEXTS.get(name)
    manifest = PluginManifest(
        name=name,
        title=text.title if text else name.capitalize(),
        version="1.0.0",
        base=base,
        example_instructions=text.example_instructions if text else (f"apply {name}",),
        start="noise" if name in STARTS_FROM_NOISE else "image",
        default_steps=STEPS,
        licence=LICENCE,
        digest="sha256:" + 64 * "0",
    )
    return write_plugin(plugin_folder(store, base, name), state, config, manifest, _card(manifest))


def _write_selector(root: Path, heads: State, tasks: tuple[str, ...]) -> None:
    folder = root / "selector"
    folder.mkdir(exist_ok=True)
    save_file({k: v.contiguous().clone() for k, v in heads.items()}, folder / HEADS)
    config = ReleasedConfig(order=tasks, licence=LICENCE)
    (folder / "config.json").write_text(json.dumps(config.model_dump(), indent=2) + "\n")


def _card(manifest: PluginManifest) -> str:
    return f"""# {manifest.name}: {manifest.title}

A Task-Plugin (TPB and SCB) of the Diff-Plugin authors ({SOURCE}), for base `{manifest.base}`.

Its weights are under {manifest.licence}: not for commercial use, and what is made from them stays
under the same licence. `diffplugin plugins import` took them over tensor by tensor, unchanged.
"""
