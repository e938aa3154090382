"""Networks from their folders: config.json says what is built, the weights must fit it exactly.

It reads what diffusers and transformers write, in either format of weights, and the older names
that Stable Diffusion 1.4 has on disk. Unknown keys of a config are ignored, as those libraries do.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from service.errors import InvalidCheckpoint
from service.models.checkpoint import State, fill, find_weights, read_state
from service.models.codec import PatchCodec

Module = TypeVar("Module", bound=nn.Module)

OLD_ATTENTION = {
    "query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0",
}  # fmt: skip


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A JSON object; InvalidCheckpoint if it is not one."""
    path = folder / name
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InvalidCheckpoint(f"{path} is missing; it says what the weights are of") from error
    except ValueError as error:
        raise InvalidCheckpoint(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise InvalidCheckpoint(f"{path} must be a JSON object")
    return config


def load_unet(folder: Path, dtype: torch.dtype) -> UNet2DConditionModel:
    config = read_config(folder)
    return _build(lambda: UNet2DConditionModel.from_config(config), _plain, folder, dtype)


def load_vae(folder: Path, dtype: torch.dtype) -> AutoencoderKL | PatchCodec:
    config = read_config(folder)
    name = config.get("_class_name", "AutoencoderKL")
    classes = {"PatchCodec": PatchCodec, "AutoencoderKL": AutoencoderKL}
    if name not in classes:
        raise InvalidCheckpoint(f"{folder}: _class_name {name!r} is none of {', '.join(classes)}")
    return _build(lambda: classes[name].from_config(config), _with_new_names, folder, dtype)


def load_image_encoder(folder: Path, dtype: torch.dtype) -> CLIPVisionModel:
    """CLIP's vision tower, from its own folder or from one that holds both towers."""
    raw = read_config(folder)
    config = CLIPVisionConfig(**raw.get("vision_config", raw))
    return _build(lambda: CLIPVisionModel(config), _tower("vision_model"), folder, dtype)


def load_text_encoder(folder: Path, dtype: torch.dtype) -> CLIPTextModel:
    """CLIP's text tower, from its own folder or from one that holds both towers."""
    raw = read_config(folder)
    config = CLIPTextConfig(**raw.get("text_config", raw))
    return _build(lambda: CLIPTextModel(config), _tower("text_model"), folder, dtype)


def _build(
    make: Callable[[], Module],
    rename: Callable[[State], Mapping[str, Tensor]],
    folder: Path,
    dtype: torch.dtype,
) -> Module:
    """Without memory for weights that are replaced at once."""
    source = find_weights(folder)
    state = rename(read_state(source))
    try:
        with init_empty_weights(include_buffers=False):
            module = make()
    except (TypeError, ValueError, KeyError) as error:
        raise InvalidCheckpoint(f"{folder / 'config.json'} describes no model: {error}") from error
    fill(module, state, source, dtype)
    return module


def _plain(state: State) -> State:
    return state


def _with_new_names(state: State) -> State:
    """The attentions of a VAE as diffusers called them before 0.15, and as 1x1 convolutions."""

    def renamed(name: str, value: Tensor) -> tuple[str, Tensor]:
        found = re.fullmatch(r"(.*\.attentions\.\d+\.)(query|key|value|proj_attn)(\..*)", name)
        if found is None:
            return name, value
        linear = value[:, :, 0, 0] if value.dim() == 4 else value
        return f"{found[1]}{OLD_ATTENTION[found[2]]}{found[3]}", linear

    return dict(renamed(name, value) for name, value in state.items())


def _tower(prefix: str) -> Callable[[State], State]:
    """One tower's tensors, with or without its prefix; no other tower, no buffers of positions."""

    def chosen(state: State) -> State:
        if any(name.startswith(f"{prefix}.") for name in state):
            state = {
                name.removeprefix(f"{prefix}."): value
                for name, value in state.items()
                if name.startswith(f"{prefix}.")
            }
        return {k: v for k, v in state.items() if not k.endswith("position_ids")}

    return chosen
