"""Runs the networks for trajectories: prepare a task, denoise a mixed batch, decode a result."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from service.engine.sampling import NoiseSchedule, SamplerState, update
from service.engine.trajectory import Prepared, Stage, Trajectory
from service.images import Pixels, UnitPixels
from service.models.backbone import Backbone
from service.models.denoiser import denoise
from service.models.plugin import Plugin
from service.models.plugin_store import PluginStore


class ModelRunner:
    """Owns the weights. It changes trajectories and knows nothing about which ones come next."""

    def __init__(self, backbone: Backbone, store: PluginStore) -> None:
        self.backbone, self.store = backbone, store
        self.noise_schedule = NoiseSchedule.from_config(backbone.scheduler_config)

    @torch.inference_mode()
    def prepare(self, trajectory: Trajectory) -> None:
        """Encode the image and compute all that its steps share, for every timestep at once."""
        began = time.perf_counter()
        plugin = self.store.get(trajectory.plugin_name)
        steps = trajectory.edit.steps or plugin.manifest.default_steps
        table = self.noise_schedule.table(min(steps, len(self.noise_schedule.alphas_cumprod)))
        cond = self.backbone.encode(self._to_tensor(trajectory.pixels))
        tokens = plugin.tpb(self.backbone.image_features([trajectory.pixels]))
        residuals, skip = _run_scb(plugin, cond, table.timesteps.to(cond.device), tokens)
        noise = _seeded_noise(cond, trajectory.edit.seed)
        starts_from_noise = plugin.manifest.start == "noise"
        x = noise if starts_from_noise else table.add_noise(cond.float(), noise)
        trajectory.prepared = Prepared(
            plugin, table, tokens, residuals, skip, SamplerState.start(x)
        )
        trajectory.stage = Stage.DENOISING
        trajectory.spend("prepare_s", time.perf_counter() - began)

    @torch.inference_mode()
    def denoise(self, batch: Sequence[Trajectory]) -> float:
        """One UNet call and one sampler update for all rows; returns the seconds it took."""
        began = time.perf_counter()
        rows = [t.current for t in batch]
        steps = [t.step for t in batch]
        state = _stack_states([row.state for row in rows])
        timesteps = torch.stack([r.table.timesteps[i] for r, i in zip(rows, steps, strict=True)])
        output = denoise(
            self.backbone.unet,
            state.x.to(self.backbone.dtype),
            timesteps.to(self.backbone.device),
            torch.cat([row.tokens for row in rows]),
            _stack_residuals(rows, steps),
            _stack_skips(rows, steps, state.x),
        )
        table_rows = torch.stack([r.table.rows[i] for r, i in zip(rows, steps, strict=True)])
        after = update(state, output, table_rows)
        for i, trajectory in enumerate(batch):
            _advance(trajectory, after, i)
        seconds = time.perf_counter() - began
        for trajectory in batch:
            trajectory.spend("denoise_s", seconds)
        return seconds

    @torch.inference_mode()
    def finish(self, trajectory: Trajectory) -> UnitPixels:
        """Decode to the input's size; not rounded, for the input may have had more than 8 bits."""
        began = time.perf_counter()
        latents = trajectory.current.state.x.to(self.backbone.dtype)
        image = self.backbone.decode(latents)[0].float()
        height, width = trajectory.pixels.shape[:2]
        unit = (image[:, :height, :width] / 2 + 0.5).clamp(0, 1)
        restored = unit.permute(1, 2, 0).cpu().numpy()
        trajectory.spend("finish_s", time.perf_counter() - began)
        return np.ascontiguousarray(restored)

    def _to_tensor(self, pixels: Pixels) -> Tensor:
        """(1, 3, H', W') in [-1, 1], edges repeated up to the sides that the networks need."""
        image = torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        multiple = self.backbone.pixel_multiple
        down, right = (-pixels.shape[0] % multiple), (-pixels.shape[1] % multiple)
        return F.pad(image, (0, right, 0, down), mode="replicate")


def _run_scb(
    plugin: Plugin, cond: Tensor, timesteps: Tensor, tokens: Tensor
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """SCB's output for all timesteps (n,) in one call: it never reads the noisy latent."""
    num = len(timesteps)
    output = plugin.scb(cond.expand(num, -1, -1, -1), timesteps, tokens.expand(num, -1, -1))
    return output.residuals, output.skip


def _seeded_noise(like: Tensor, seed: int) -> Tensor:
    """Drawn on the CPU, so that a seed means the same noise on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator).to(like.device)


def _stack_states(states: Sequence[SamplerState]) -> SamplerState:
    return SamplerState(
        torch.cat([s.x for s in states]),
        torch.cat([s.previous for s in states]),
        torch.cat([s.m1 for s in states]),
        torch.cat([s.m2 for s in states]),
    )


def _stack_residuals(rows: Sequence[Prepared], steps: Sequence[int]) -> list[Tensor]:
    """One tensor per UNet skip, each row at its own step."""
    return [
        torch.stack([row.residuals[k][i] for row, i in zip(rows, steps, strict=True)])
        for k in range(len(rows[0].residuals))
    ]


def _stack_skips(rows: Sequence[Prepared], steps: Sequence[int], like: Tensor) -> Tensor | None:
    """Output skips; rows of plugins without one get zeros."""
    if all(row.skip is None for row in rows):
        return None
    zero = torch.zeros_like(like[0])
    pairs = zip(rows, steps, strict=True)
    return torch.stack([zero if row.skip is None else row.skip[i] for row, i in pairs])


def _advance(trajectory: Trajectory, after: SamplerState, row: int) -> None:
    trajectory.current.state = SamplerState(
        after.x[row : row + 1],
        after.previous[row : row + 1],
        after.m1[row : row + 1],
        after.m2[row : row + 1],
    )
    trajectory.step += 1
    if trajectory.step == len(trajectory.current.table):
        trajectory.stage = Stage.DENOISED
