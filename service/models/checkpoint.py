"""Weights on disk -> tensors by name, as data: no code of a file is ever run, and damage is named.

Read are safetensors and what torch.save writes (.bin, .pt, .pth, .ckpt).
"""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from service.errors import InvalidCheckpoint

State = dict[str, Tensor]

# As diffusers and transformers name them; safetensors before pickles.
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


def find_weights(folder: Path, stems: tuple[str, ...] = STEMS) -> Path:
    """The weights file of a model's folder; InvalidCheckpoint if there is none."""
    for suffix in SUFFIXES:
        for stem in stems:
            if (folder / f"{stem}{suffix}").is_file():
                return folder / f"{stem}{suffix}"
    names = ", ".join(f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES[:2])
    raise InvalidCheckpoint(f"{folder} holds no weights; one of these is expected: {names}")


def read_state(path: Path) -> State:
    """Every tensor of a file, on the CPU, in its own dtype; InvalidCheckpoint in one line.

    Unwrapped are {"model": state}, {"state_dict": state}, and `module.` that DataParallel puts
    before every name.
    """
    raw = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for wrapper in ("model", "state_dict"):
        if isinstance(raw.get(wrapper), Mapping):
            raw = raw[wrapper]
    odd = [name for name, value in raw.items() if not isinstance(value, Tensor)]
    if odd or not raw:
        raise InvalidCheckpoint(
            f"{path} is not a state dict: {f'{odd[0]!r} is no tensor' if odd else 'it is empty'}"
        )
    state = {str(name): value for name, value in raw.items()}
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InvalidCheckpoint(f"{path} is damaged: {name} holds values that are not finite")
    return state


def fill(module: nn.Module, state: Mapping[str, Tensor], source: Path, dtype: torch.dtype) -> None:
    """Load `state` into a module, whole and of the right shapes; else InvalidCheckpoint.

    The module takes the tensors themselves; numbers that are not whole become `dtype`.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state]
    extra = [name for name in state if name not in own]
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"has {extra[0]}, which is not known"
        raise InvalidCheckpoint(
            f"{source} {what} ({len(missing)} names missing, {len(extra)} too many); "
            "is it the checkpoint that its config describes?"
        )
    for name, value in own.items():
        if value.shape != state[name].shape:
            raise InvalidCheckpoint(
                f"{source}: {name} has the shape {tuple(state[name].shape)}, "
                f"its config asks for {tuple(value.shape)}"
            )
    cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    module.load_state_dict(cast, assign=True)


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise InvalidCheckpoint(f"{path} is truncated or damaged: {_line(error)}") from error


def _read_torch(path: Path) -> dict[str, Any]:
    _check_archive(path)
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InvalidCheckpoint(_refusal(path, error)) from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError) as error:
        raise InvalidCheckpoint(f"{path} is truncated or damaged: {_line(error)}") from error
    if not isinstance(raw, Mapping):
        raise InvalidCheckpoint(f"{path} holds a {type(raw).__name__}, not a state dict")
    return dict(raw)


def _check_archive(path: Path) -> None:
    """torch itself does not look at the checksums of its zip archive."""
    with path.open("rb") as file:
        start = file.read(4)
    if not start.startswith(b"PK"):
        return  # the format before torch 1.6, or no checkpoint: torch will say
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise InvalidCheckpoint(f"{path} is truncated or damaged: {_line(error)}") from error
    if damaged:
        raise InvalidCheckpoint(f"{path} was changed or damaged: the checksum of {damaged} differs")


def _refusal(path: Path, error: pickle.UnpicklingError) -> str:
    """torch's message goes on for pages, with advice to run the code."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found is None:
        return f"{path} is refused and was not run: it is damaged, or no file of torch.save"
    return (
        f"{path} is refused and was not run: it asks for code ({found[1]}), not only tensors; "
        "get the weights as safetensors, or from their authors"
    )


def _line(error: Exception) -> str:
    """The first line of an error."""
    return " ".join(str(error).split("\n")[0].split())[:200] or type(error).__name__
