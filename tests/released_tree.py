"""A tiny checkpoint in the released layout, random weights, in every way it may lie on disk."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel

from service.models.scb import SCB, SCBConfig
from service.models.tpb import TPB
from tests import tiny_latent_base
from tests.tiny_latent_base import CROSS_ATTENTION_DIM, VISION_WIDTH, write_preprocessor

TOKENIZER = Path(__file__).parent / "golden" / "tokenizer"
IMAGE_SIZE = 32
VOCABULARY = 674
SCB_NAMES = {
    "conv_in.": "controlnet_cond_embedding.",
    "down_block.": "down_blocks.0.",
    "taps.": "controlnet_down_blocks.",
}
VAE_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
PNDM = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "clip_sample": False,
    "trained_betas": None,
}


@dataclass(frozen=True)
class Variant:
    """How the same weights are written."""

    suffix: str = ".bin"  # of every file but .pt
    prefix: str = ""  # before every name in .pt files
    wrapper: str = "model"  # around them; empty: none
    has_old_vae_names: bool = True
    has_both_towers: bool = True
    has_leftovers: bool = True  # unknown keys in configs, names of no use in state dicts
    pt_dtype: torch.dtype = torch.float16


@dataclass
class Released:
    """The networks of a tree, as they were before they were written."""

    tasks: tuple[str, ...]
    unet: UNet2DConditionModel = field(init=False)
    vae: AutoencoderKL = field(init=False)
    clip: CLIPModel = field(init=False)
    text: CLIPTextModel = field(init=False)
    scbs: dict[str, SCB] = field(default_factory=dict)
    tpbs: dict[str, TPB] = field(default_factory=dict)
    heads: dict[str, Tensor] = field(default_factory=dict)


def build_released(seed: int, tasks: tuple[str, ...]) -> Released:
    torch.manual_seed(seed)
    made = Released(tasks)
    made.unet, made.vae = tiny_latent_base.build_unet().eval(), tiny_latent_base.build_vae().eval()
    text = {
        "hidden_size": CROSS_ATTENTION_DIM, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 2,
        "projection_dim": 8,
    }  # fmt: skip
    vision = {
        "hidden_size": VISION_WIDTH, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 2, "image_size": IMAGE_SIZE, "patch_size": 8, "projection_dim": 8,
    }  # fmt: skip
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    made.clip, made.text = CLIPModel(config).eval(), CLIPTextModel(CLIPTextConfig(**text)).eval()
    scb_config = SCBConfig.from_unet(dict(made.unet.config), output_skip=False)
    for task in tasks:
        made.scbs[task] = _shaken(SCB(scb_config))
        made.tpbs[task] = _shaken(TPB(VISION_WIDTH, CROSS_ATTENTION_DIM)).half().float()
    width = CROSS_ATTENTION_DIM
    for head in ("proj_v", "proj_t"):
        made.heads[f"{head}.weight"] = torch.randn(width, width).half()
        made.heads[f"{head}.bias"] = torch.randn(width).half()
    made.heads["logit_scale"] = torch.tensor(2.6592)
    return made


def write_released(root: Path, made: Released, variant: Variant = Variant()) -> None:
    """stable-diffusion/, clip/ and pre-trained/ below `root`."""
    diffusion, clip = root / "stable-diffusion", root / "clip"
    leftovers = {"way_to_concat": "cat", "enable_mask": False} if variant.has_leftovers else {}
    _write_diffusers(diffusion / "unet", made.unet.config, leftovers)
    _save(diffusion / "unet" / "diffusion_pytorch_model", made.unet.state_dict(), variant)
    vae = made.vae.state_dict()
    if variant.has_old_vae_names:
        vae = {_renamed(name): value for name, value in vae.items()}
    _write_diffusers(diffusion / "vae", made.vae.config, leftovers)
    _save(diffusion / "vae" / "diffusion_pytorch_model", vae, variant)
    (diffusion / "scheduler").mkdir()
    (diffusion / "scheduler" / "scheduler_config.json").write_text(json.dumps(PNDM))
    (diffusion / "text_encoder").mkdir()
    (diffusion / "text_encoder" / "config.json").write_text(made.text.config.to_json_string())
    text = {f"text_model.{k}": v for k, v in made.text.state_dict().items()}
    _save(diffusion / "text_encoder" / _stem(variant), text, variant)
    copytree(TOKENIZER, diffusion / "tokenizer")
    write_preprocessor(clip, IMAGE_SIZE)
    _write_clip(clip, made.clip, variant)
    for task in made.tasks:
        _write_task(root / "pre-trained" / task, made, task, variant, leftovers)
    selector = root / "pre-trained" / "plugin_selector"
    selector.mkdir()
    _save_pt(selector / "PromptTunner.pt", made.heads, variant)


def _write_task(
    folder: Path, made: Released, task: str, variant: Variant, leftovers: dict[str, Any]
) -> None:
    config, scb = made.scbs[task].config, made.scbs[task].state_dict()
    (folder / "scb").mkdir(parents=True)
    written = {
        "act_fn": "silu", "attention_head_dim": config.num_heads,
        "block_out_channels": [config.channels], "cross_attention_dim": config.cross_attention_dim,
        "down_block_types": ["CrossAttnDownBlock2D"], "flip_sin_to_cos": True, "freq_shift": 0,
        "in_channels": config.in_channels, "layers_per_block": config.num_layers,
        "norm_eps": config.norm_eps, "norm_num_groups": config.norm_num_groups,
    }  # fmt: skip
    (folder / "scb" / "config.json").write_text(json.dumps({**written, **leftovers}))
    named = {}
    for name, value in scb.items():
        ours = next((ours for ours in SCB_NAMES if name.startswith(ours)), "")
        named[SCB_NAMES.get(ours, "") + name.removeprefix(ours)] = value
    if variant.has_leftovers:
        named["mid_block.unused.weight"] = torch.zeros(2)
    _save(folder / "scb" / "diffusion_pytorch_model", named, variant)
    tpb = made.tpbs[task].state_dict()
    renamed = {name.replace("layers.", "visual_projection."): v for name, v in tpb.items()}
    _save_pt(folder / "tpb.pt", renamed, variant)


def _write_clip(folder: Path, clip: CLIPModel, variant: Variant) -> None:
    state = {k: v for k, v in clip.state_dict().items()}
    config = clip.config.to_dict()
    if not variant.has_both_towers:
        state = {k: v for k, v in state.items() if k.startswith("vision_model.")}
        config = clip.config.vision_config.to_dict()
    elif variant.has_leftovers:
        state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    (folder / "config.json").write_text(json.dumps(config, default=str))
    _save(folder / _stem(variant), state, variant)


def _write_diffusers(folder: Path, config: Any, leftovers: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**config, **leftovers}))


def _stem(variant: Variant) -> str:
    """What transformers calls its weights."""
    return "model" if variant.suffix == ".safetensors" else "pytorch_model"


def _save(stem: Path, state: dict[str, Tensor], variant: Variant) -> None:
    path = stem.with_name(stem.name + variant.suffix)
    whole = {name: value.clone().contiguous() for name, value in state.items()}
    if variant.suffix == ".safetensors":
        save_file(whole, path)
    else:
        torch.save(whole, path)


def _save_pt(path: Path, state: dict[str, Tensor], variant: Variant) -> None:
    named = {f"{variant.prefix}{name}": value.to(variant.pt_dtype) for name, value in state.items()}
    torch.save({variant.wrapper: named} if variant.wrapper else named, path)


def _renamed(name: str) -> str:
    for ours, old in VAE_NAMES.items():
        if ".attentions." in name:
            name = name.replace(f".{ours}.", f".{old}.")
    return name


def _shaken(module: Any) -> Any:
    """Nothing is zero, so that every part of it matters."""
    for conv in getattr(module, "taps", ()):
        nn.init.normal_(conv.weight, std=0.3)
        nn.init.normal_(conv.bias, std=0.1)
    return module.eval().requires_grad_(False)
