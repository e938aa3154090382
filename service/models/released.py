"""One Task-Plugin as its authors released it: a task folder -> tensors by our names, checked.

<task>/scb/config.json and weights, <task>/tpb.pt; either format of weights, names with or without
DataParallel's prefix, config keys that no code reads.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from service.errors import InvalidCheckpoint
from service.models.architectures import read_config
from service.models.checkpoint import State, find_weights, read_state
from service.models.scb import SCB, SCBConfig
from service.models.tpb import TPB

SCB_NAMES = {
    "controlnet_cond_embedding.": "conv_in.",
    "down_blocks.0.": "down_block.",
    "controlnet_down_blocks.": "taps.",
}
# What an SCB's config may say that this code does not read, because it can do nothing else.
SCB_NEEDS = {
    "down_block_types": ["CrossAttnDownBlock2D"],
    "act_fn": "silu",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "use_linear_projection": False,
    "resnet_time_scale_shift": "default",
}


def read_released_plugin(folder: Path) -> tuple[State, SCBConfig]:
    """tpb.* and scb.* of one task folder in our names, and the SCB's shape; InvalidCheckpoint."""
    scb, config = read_released_scb(folder / "scb")
    source = find_weights(folder, ("tpb",))
    tpb = {
        name.replace("visual_projection.", "layers."): value
        for name, value in read_state(source).items()
    }
    check_state(tpb, _tpb_like(tpb, source).state_dict(), source)
    state = {f"tpb.{name}": value for name, value in tpb.items()}
    return state | {f"scb.{name}": value for name, value in scb.items()}, config


def read_released_scb(folder: Path) -> tuple[State, SCBConfig]:
    """The tensors of SCB in our names, and its shape; what its class does not know is left out."""
    config = _read_scb_config(folder)
    source, own = find_weights(folder), SCB(config).state_dict()
    named = {_scb_name(name): value for name, value in read_state(source).items()}
    state = {name: value for name, value in named.items() if name in own}
    check_state(state, own, source)
    return state, config


def _read_scb_config(folder: Path) -> SCBConfig:
    raw = read_config(folder)
    for key, needed in SCB_NEEDS.items():
        if raw.get(key, needed) != needed:
            raise InvalidCheckpoint(
                f"{folder / 'config.json'}: {key} {raw[key]!r} is not supported, {needed!r} is"
            )
    try:
        return SCBConfig.from_unet(
            {
                "out_channels": raw.get("in_channels", 4),
                "num_attention_heads": None,
                "only_cross_attention": False,
                "norm_num_groups": 32,
                "norm_eps": 1e-5,
                "layers_per_block": 2,
                **{key: value for key, value in raw.items() if value is not None},
            },
            output_skip=False,
        )
    except KeyError as error:
        raise InvalidCheckpoint(f"{folder / 'config.json'} lacks {error}") from error


def _scb_name(name: str) -> str:
    for theirs, ours in SCB_NAMES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _tpb_like(state: State, source: Path) -> TPB:
    """Its widths are those of its own weights."""
    try:
        return TPB(state["layers.0.weight"].shape[1], state["layers.6.weight"].shape[0])
    except (KeyError, IndexError) as error:
        raise InvalidCheckpoint(f"{source} is no TPB: it lacks visual_projection") from error


def check_state(state: State, own: Mapping[str, Tensor], source: Path) -> None:
    """Names and shapes are those of the network."""
    for name, value in own.items():
        if name not in state:
            raise InvalidCheckpoint(f"{source} lacks {name}; it is not what its config describes")
        if state[name].shape != value.shape:
            raise InvalidCheckpoint(
                f"{source}: {name} has the shape {tuple(state[name].shape)}, "
                f"{tuple(value.shape)} is needed"
            )
    extra = [name for name in state if name not in own]
    if extra:
        raise InvalidCheckpoint(f"{source} has {extra[0]}, which is not known")
