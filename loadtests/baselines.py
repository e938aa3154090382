"""What the engine is measured against: loops over the same networks, written the usual way.

ReferenceLoop serves one request at a time as the published inference script does. DiffusersBatch
uses diffusers' own modules and scheduler as its documentation advises for throughput.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor

from loadtests.bench_bases import BenchBase
from service.engine.edit import Edit
from service.images import Pixels
from service.models.backbone import Backbone
from service.models.denoiser import denoise
from service.models.plugin import Plugin
from service.models.plugin_store import PluginStore
from service.models.scb import SCB, SCBConfig
from service.models.tpb import TPB


class ReferenceLoop:
    """Float32, eager; each request builds and reads its plugin, and runs SCB at every step."""

    def __init__(self, base: BenchBase, backbone: Backbone, folder: Path) -> None:
        self._base, self._backbone, self._folder = base, backbone, folder
        backbone.image_encoder.set_attn_implementation("eager")  # the only one with attentions
        store = PluginStore(base.store, backbone)
        for name in base.plugins:
            torch.save(store.get(name).state_dict(), folder / f"{name}.pt")

    def load_plugin(self, name: str) -> tuple[TPB, SCB]:
        """Built anew and read with torch.load, as for every request."""
        unet = dict(self._backbone.unet.config)
        state = torch.load(self._folder / f"{name}.pt", map_location="cpu", weights_only=True)
        skip = any(key.startswith("scb.gain.") for key in state)
        tpb = TPB(self._backbone.image_encoder.config.hidden_size, unet["cross_attention_dim"])
        scb = SCB(SCBConfig.from_unet(unet, skip))
        tpb.load_state_dict({k[4:]: v for k, v in state.items() if k.startswith("tpb.")})
        scb.load_state_dict({k[4:]: v for k, v in state.items() if k.startswith("scb.")})
        return tpb.to(self._backbone.device).eval(), scb.to(self._backbone.device).eval()

    @torch.inference_mode()
    def run(self, edits: Sequence[Edit]) -> list[Pixels]:
        return [self._edit(edit) for edit in edits]

    def _edit(self, edit: Edit) -> Pixels:
        tpb, scb = self.load_plugin(edit.plugins[0])
        backbone = self._backbone
        pixels = backbone.preprocessor(edit.pixels)[None].to(backbone.device)
        seen = backbone.image_encoder(pixels, output_hidden_states=True, output_attentions=True)
        tokens = tpb(seen.hidden_states[-1][:, 1:])
        cond = backbone.encode(to_unit(edit.pixels))
        scheduler = scheduler_of(backbone, edit.steps)
        x = start_noise(cond, [edit.seed])
        for t in scheduler.timesteps:
            scb_output = scb(cond, t[None].to(cond.device), tokens)
            output = denoise(backbone.unet, x, t, tokens, scb_output.residuals, scb_output.skip)
            x = scheduler.step(output, t, x).prev_sample
        return to_pixels(backbone.decode(x))[0]


class DiffusersBatch:
    """Requests of one plugin, `batch_size` at a time: half precision on CUDA, compiled UNet."""

    def __init__(
        self, backbone: Backbone, store: PluginStore, compiles: bool, batch_size: int
    ) -> None:
        self._backbone, self._store, self._batch_size = backbone, store, batch_size
        self.is_compiled = compiles
        if compiles:
            is_cuda = backbone.device.type == "cuda"
            backbone.unet.compile(mode="reduce-overhead" if is_cuda else "default")

    def warm_up(self, edits: Sequence[Edit]) -> None:
        """Compile for these; where that fails, go on without, and say so."""
        try:
            self.run(edits)
        except Exception as error:
            if not self.is_compiled:
                raise
            print(f"torch.compile failed, diffusers runs without: {type(error).__name__}")
            self.is_compiled, self._backbone.unet._compiled_call_impl = False, None

    @torch.inference_mode()
    def run(self, edits: Sequence[Edit]) -> list[Pixels]:
        """One pipeline call takes one side network, so edits are grouped by plugin."""
        results: dict[str, Pixels] = {}
        by_plugin: dict[str, list[Edit]] = {}
        for edit in edits:
            by_plugin.setdefault(edit.plugins[0], []).append(edit)
        for name, group in by_plugin.items():
            for i in range(0, len(group), self._batch_size):
                chunk = group[i : i + self._batch_size]
                images = self._edit(self._store.get(name), chunk)
                results |= {edit.id: image for edit, image in zip(chunk, images, strict=True)}
        return [results[edit.id] for edit in edits]

    def _edit(self, plugin: Plugin, edits: list[Edit]) -> list[Pixels]:
        backbone = self._backbone
        tokens = plugin.tpb(backbone.image_features([edit.pixels for edit in edits]))
        cond = backbone.encode(torch.cat([to_unit(edit.pixels) for edit in edits]))
        scheduler = scheduler_of(backbone, edits[0].steps)
        x = start_noise(cond, [edit.seed for edit in edits])
        for t in scheduler.timesteps:
            scb_output = plugin.scb(cond, t.repeat(len(x)).to(cond.device), tokens)
            output = denoise(backbone.unet, x, t, tokens, scb_output.residuals, scb_output.skip)
            x = scheduler.step(output, t, x).prev_sample
        return to_pixels(backbone.decode(x))


def scheduler_of(backbone: Backbone, steps: int | None) -> UniPCMultistepScheduler:
    """diffusers' own, with the base's betas."""
    config = {k: v for k, v in backbone.scheduler_config.items() if not k.startswith("_")}
    scheduler = UniPCMultistepScheduler.from_config(config, final_sigmas_type="sigma_min")
    scheduler.set_timesteps(steps or 20)
    return scheduler


def to_unit(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]


def start_noise(cond: Tensor, seeds: list[int]) -> Tensor:
    """The engine's own start for plugins that start from noise."""
    rows = [
        torch.randn(1, *cond.shape[1:], generator=torch.Generator().manual_seed(s)) for s in seeds
    ]
    return torch.cat(rows).to(cond)


def to_pixels(images: Tensor) -> list[Pixels]:
    unit = (images.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
    return list(np.rint(unit * 255).astype(np.uint8))
