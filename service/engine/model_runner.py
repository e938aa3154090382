"""Runs the networks for trajectories: prepare a task, denoise a mixed batch, decode a result."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from service.engine.sampling import NoiseSchedule, SamplerState, update
from service.engine.shifts import merge_views, offsets, shifted_views
from service.engine.trajectory import Prepared, Stage, Trajectory
from service.images import UnitPixels
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
        shifts = offsets(plugin.manifest.num_shifts, self.backbone.patch_size)
        views = shifted_views(trajectory.pixels, shifts, self.backbone.pixel_multiple)
        cond = self.backbone.encode(views)
        tokens = plugin.tpb(self.backbone.image_features([trajectory.pixels]))
        residuals, skip = _run_scb(plugin, cond, table.timesteps.to(cond.device), tokens)
        noise = _seeded_noise(cond, trajectory.edit.seed)
        starts_from_noise = plugin.manifest.start == "noise"
        x = noise if starts_from_noise else table.add_noise(cond.float(), noise)
        trajectory.prepared = Prepared(
            plugin, table, shifts, tokens, residuals, skip, SamplerState.start(x)
        )
        trajectory.stage = Stage.DENOISING
        trajectory.spend("prepare_s", time.perf_counter() - began)

    @torch.inference_mode()
    def denoise(self, batch: Sequence[Trajectory]) -> float:
        """One UNet call and one sampler update for all rows; returns the seconds it took."""
        began = time.perf_counter()
        rows = [t.current for t in batch]
        steps = [t.step for t in batch]
        counts = torch.tensor([len(row.shifts) for row in rows])
        state = _stack_states([row.state for row in rows])
        timesteps = torch.stack([r.table.timesteps[i] for r, i in zip(rows, steps, strict=True)])
        output = denoise(
            self.backbone.unet,
            state.x.to(self.backbone.dtype),
            timesteps.repeat_interleave(counts).to(self.backbone.device),
            torch.cat([row.tokens.expand(len(row.shifts), -1, -1) for row in rows]),
            _stack_residuals(rows, steps),
            _stack_skips(rows, steps),
        )
        table_rows = torch.stack([r.table.rows[i] for r, i in zip(rows, steps, strict=True)])
        after = update(state, output, table_rows.repeat_interleave(counts, dim=0))
        for trajectory, part in zip(batch, _split_state(after, counts.tolist()), strict=True):
            _advance(trajectory, part)
        seconds = time.perf_counter() - began
        for trajectory in batch:
            trajectory.spend("denoise_s", seconds)
        return seconds

    @torch.inference_mode()
    def finish(self, trajectory: Trajectory) -> UnitPixels:
        """Decode to the input's size; not rounded, for the input may have had more than 8 bits."""
        began = time.perf_counter()
        latents = trajectory.current.state.x.to(self.backbone.dtype)
        views = self.backbone.decode(latents).float()
        height, width = trajectory.pixels.shape[:2]
        image = merge_views(views, trajectory.current.shifts, (height, width))
        restored = (image / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).cpu().numpy()
        trajectory.spend("finish_s", time.perf_counter() - began)
        return np.ascontiguousarray(restored)


def _run_scb(
    plugin: Plugin, cond: Tensor, timesteps: Tensor, tokens: Tensor
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """SCB's output for all timesteps (n,) and views (V, C, h, w), each (n, V, C, h, w).

    One call does, as it never reads the noisy latent.
    """
    num_steps, num_views = len(timesteps), len(cond)
    output = plugin.scb(
        cond.repeat(num_steps, 1, 1, 1),
        timesteps.repeat_interleave(num_views),
        tokens.expand(num_steps * num_views, -1, -1),
    )
    split = (num_steps, num_views)
    residuals = tuple(residual.unflatten(0, split) for residual in output.residuals)
    return residuals, None if output.skip is None else output.skip.unflatten(0, split)


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
        torch.cat([row.residuals[k][i] for row, i in zip(rows, steps, strict=True)])
        for k in range(len(rows[0].residuals))
    ]


def _stack_skips(rows: Sequence[Prepared], steps: Sequence[int]) -> Tensor | None:
    """Output skips; rows of plugins without one get zeros."""
    if all(row.skip is None for row in rows):
        return None
    pairs = zip(rows, steps, strict=True)
    return torch.cat(
        [torch.zeros_like(row.state.x) if row.skip is None else row.skip[i] for row, i in pairs]
    )


def _split_state(state: SamplerState, counts: list[int]) -> list[SamplerState]:
    """The rows of each trajectory."""
    fields = (state.x, state.previous, state.m1, state.m2)
    parts = zip(*(torch.split(tensor, counts) for tensor in fields), strict=True)
    return [SamplerState(*part) for part in parts]


def _advance(trajectory: Trajectory, state: SamplerState) -> None:
    trajectory.current.state = state
    trajectory.step += 1
    if trajectory.step == len(trajectory.current.table):
        trajectory.stage = Stage.DENOISED
