"""Runs the networks for trajectories: prepare tasks, denoise a mixed batch, decode results."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from service.engine.batch import Batch
from service.engine.bucketed_step import BucketedStep
from service.engine.complements import Complements, complement_widths
from service.engine.denoise_step import DenoiseStep
from service.engine.edit import Edit
from service.engine.preset import Preset, choose_preset, fitted
from service.engine.sampling import NoiseSchedule, SamplerState, StepTable
from service.engine.shifts import merge_views, offsets, shifted_views
from service.engine.side_stream import Mark, SideStream, StepPacer
from service.engine.sizes import brought_back
from service.engine.tile_runner import TileRunner
from service.engine.trajectory import Decoded, Prepared, Stage, Trajectory
from service.images import Pixels, UnitPixels
from service.models.attention import FusedAttention
from service.models.attention_choice import fastest_attention
from service.models.backbone import Backbone
from service.models.feature_cache import FeatureCache
from service.models.output_stage import OutputStage
from service.models.plugin import Plugin
from service.models.plugin_store import PluginStore

MAX_CODEC_PIXELS = 4 * 2**20  # in one call of the codec; Stable Diffusion's decoder wants 2 GB then


class ModelRunner:
    """Owns the weights. It changes trajectories and knows nothing about which ones come next."""

    def __init__(
        self,
        backbone: Backbone,
        store: PluginStore,
        pads_batches: bool | None = None,
        cache_interval: int = 1,
        preset: Preset | None = None,
    ) -> None:
        """`pads_batches` to a few sizes: None: on CUDA, where each size is one graph replay.

        cache_interval n > 1, lossy: deep layers run at every n-th step only; it pads nothing.
        """
        self.backbone, self.store, self.cache_interval = backbone, store, cache_interval
        self.preset = preset or choose_preset("default", backbone.sources)
        is_padding = backbone.device.type == "cuda" if pads_batches is None else pads_batches
        self.pads_batches = is_padding and cache_interval == 1
        self.noise_schedule = NoiseSchedule.from_config(backbone.scheduler_config)
        self._table = cache(self.noise_schedule.table)
        attend = fastest_attention(backbone.device, backbone.dtype)
        self.attention = FusedAttention(backbone.unet, attend)
        self._tiles = TileRunner(backbone, self.noise_schedule, self.attention)
        predicts_sample = self.noise_schedule.prediction_type == "sample"
        self.step_widths = complement_widths(dict(backbone.unet.config), predicts_sample)
        num_residuals = len(self.step_widths) - int(predicts_sample)
        self._step = DenoiseStep(backbone.unet, backbone.dtype, num_residuals, self.step_widths)
        self.step = BucketedStep(self._step) if self.pads_batches else self._step
        self._cache = FeatureCache(backbone.unet) if cache_interval > 1 else None
        self._side, self._pacer = SideStream(backbone.device), StepPacer(backbone.device)
        self._batches: dict[torch.Size, Batch] = {}

    @torch.inference_mode()
    def prepare(self, trajectories: Sequence[Trajectory]) -> None:
        """Encode the images and compute all that their steps share, for many timesteps at once."""
        with _timed(trajectories, "prepare_s"), self._side.work() as mark:
            features = self.backbone.image_features([self._prompt_image(t) for t in trajectories])
            for trajectory, row in zip(trajectories, features, strict=True):
                trajectory.prepared = self._prepared(trajectory, row[None], mark)
                trajectory.stage = Stage.DENOISING

    def _prepared(self, trajectory: Trajectory, features: Tensor, mark: Mark) -> Prepared:
        name = trajectory.plugin_name
        plugin = self.store.get(name, trajectory.versions.get(name))
        table = self._table_of(self._num_steps(trajectory, plugin))
        shifts = offsets(plugin.manifest.num_shifts, self.backbone.patch_size)
        is_fitted = self.preset.resizes_to_grid
        multiple = self.backbone.patch_size if is_fitted else self.backbone.pixel_multiple
        cond = self.backbone.encode(shifted_views(trajectory.pixels, shifts, multiple))
        tokens = plugin.tpb(features)
        timesteps = self._side.upload(table.timesteps)
        complements = Complements(plugin, cond, timesteps, tokens, self.step_widths)
        noise = self._side.upload(seeded_noise(cond.shape, trajectory.edit.seed))
        renoised: dict[int, Tensor] = {}
        if plugin.manifest.start == "image":
            renoised = table.renoised(cond.float(), noise, self.preset.renoise_from)
        state = SamplerState.start(renoised.pop(0, noise))
        context = self.attention.project(tokens)
        prepared = Prepared(mark, table, shifts, context, complements, state, renoised)
        self._side.lend(cond, tokens, prepared.context, *prepared.state, *complements.window)
        return prepared

    def fitted(self, pixels: Pixels) -> Pixels:
        """A photo in the size that its first task gets."""
        return fitted(pixels, self.preset, self.backbone.patch_size)

    def in_photo_size(self, edit: Edit, restored: UnitPixels) -> UnitPixels:
        """The way back from fitted(), unless the preset has none."""
        if restored.shape == edit.pixels.shape or not self.preset.returns_photo_size:
            return restored
        return brought_back(edit.pixels, self.fitted(edit.pixels), restored)

    def _num_steps(self, trajectory: Trajectory, plugin: Plugin) -> int:
        steps = trajectory.edit.steps or plugin.manifest.default_steps
        return (trajectory.task > 0 and self.preset.later_steps) or steps

    def _prompt_image(self, trajectory: Trajectory) -> Pixels:
        """What TPB looks at: the photo before any resize, or what the tasks so far have made."""
        is_first = trajectory.task == 0 and not trajectory.large
        if is_first or self.preset.prompts_from_photo:
            return trajectory.edit.pixels
        return trajectory.pixels

    def _table_of(self, steps: int) -> StepTable:
        return self._table(min(steps, len(self.noise_schedule.alphas_cumprod)))

    @property
    def num_padding_rows(self) -> int:
        """Rows that were nobody's, of all calls so far."""
        padded = self.step if isinstance(self.step, BucketedStep) else None
        return padded.num_slots - padded.num_rows if padded else 0

    @torch.inference_mode()
    def denoise(self, trajectories: Sequence[Trajectory]) -> float:
        """One UNet call and one sampler update for all rows; returns the seconds it took."""
        began = time.perf_counter()
        batch = self._stacked(trajectories)
        batch.renoise()
        inputs = (batch.state, batch.context, batch.complement(), batch.table_rows())
        if self._cache is None:
            batch.state = self.step(*inputs)
        else:
            deep = batch.deep if trajectories[0].step % self.cache_interval else None
            batch.state, batch.deep = self._step.with_cache(self._cache, *inputs, deep)
        self._pacer.step_started()
        for trajectory in trajectories:
            trajectory.step += 1
            trajectory.num_steps_done += 1
            if trajectory.step == len(trajectory.current.table):
                trajectory.stage = Stage.DENOISED
        if any(t.stage is Stage.DENOISED for t in trajectories):
            self._unstack(trajectories[0].latent_shape)
        seconds = time.perf_counter() - began
        for trajectory in trajectories:
            trajectory.spend("denoise_s", seconds)
        return seconds

    def _stacked(self, trajectories: Sequence[Trajectory]) -> Batch:
        """The batch of these rows: the one that ran last, unless its members changed."""
        shape = trajectories[0].latent_shape
        held = self._batches.get(shape)
        if held is None or held.members != tuple(trajectories):
            self._unstack(shape)
            held = self._batches[shape] = Batch(trajectories)
        return held

    def _unstack(self, shape: torch.Size) -> None:
        if held := self._batches.pop(shape, None):
            held.unstack()

    @torch.inference_mode()
    def preview(self, trajectory: Trajectory) -> UnitPixels:
        """The clean estimate of the last step, decoded as a result is."""
        held = self._batches.get(trajectory.latent_shape)
        estimate = held.estimate_of(trajectory) if held else None
        latents = trajectory.current.state.m1 if estimate is None else estimate
        views = self.backbone.decode(latents.to(self.backbone.dtype)).float()
        image = merge_views(views, trajectory.current.shifts, trajectory.size)
        return np.asarray((image / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).cpu().numpy())

    @torch.inference_mode()
    def forget(self, trajectory: Trajectory) -> None:
        """It leaves before its end; what it shares with others is theirs alone from now on."""
        if trajectory.prepared is not None:
            self._unstack(trajectory.latent_shape)

    @torch.inference_mode()
    def decode(self, trajectories: Sequence[Trajectory]) -> None:
        """Start to turn latents into images of their inputs' sizes; finish() has them."""
        with _timed(trajectories, "finish_s"), self._side.work() as mark:
            for chunk in self._codec_chunks(trajectories):
                self._side.lend(*(t.current.state.x for t in chunk))
                latents = torch.cat([t.current.state.x for t in chunk])
                views = self.backbone.decode(latents.to(self.backbone.dtype)).float()
                counts = [len(t.current.shifts) for t in chunk]
                for trajectory, part in zip(chunk, torch.split(views, counts), strict=True):
                    image = merge_views(part, trajectory.current.shifts, trajectory.size)
                    if (stage := trajectory.current.complements.plugin.stage) is not None:
                        image = self._refine(stage, trajectory, image)
                    unit = (image / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).contiguous()
                    trajectory.decoded = Decoded(mark, self._side.download(unit))
                    trajectory.stage = Stage.DECODED

    def _refine(self, stage: OutputStage, trajectory: Trajectory, restored: Tensor) -> Tensor:
        """The output stage's (3, H, W) from the task's input and what the base restored."""
        seen = torch.from_numpy(trajectory.pixels.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)
        noise = seeded_noise(seen[None].shape, trajectory.edit.seed) if stage.config.noise else None
        uploaded = None if noise is None else self._side.upload(noise)
        like = stage.conv_in.weight
        inputs = (self._side.upload(seen[None]), restored[None], uploaded)
        refined: Tensor = stage(*(None if part is None else part.to(like) for part in inputs))
        return refined[0].float()

    def _codec_chunks(self, trajectories: Iterable[Trajectory]) -> Iterator[list[Trajectory]]:
        """Groups of one latent shape, small enough for one call of the codec."""
        by_shape: dict[torch.Size, list[Trajectory]] = {}
        for trajectory in trajectories:
            by_shape.setdefault(trajectory.latent_shape, []).append(trajectory)
        for (_, height, width), group in by_shape.items():
            pixels = height * width * self.backbone.patch_size**2
            size = max(1, MAX_CODEC_PIXELS // pixels)
            yield from (group[i : i + size] for i in range(0, len(group), size))

    def finish(self, trajectory: Trajectory) -> UnitPixels:
        """The image (H, W, 3); not rounded, for the input may have had more than 8 bits."""
        decoded = trajectory.decoded
        assert decoded is not None, "a trajectory is decoded before it is finished. This is a bug."
        with _timed([trajectory], "finish_s"):
            decoded.mark.wait()
        return np.asarray(decoded.image.numpy(), np.float32)

    def start_tiles(self, trajectory: Trajectory, overview: UnitPixels) -> None:
        """Go on from the restored overview of a large photo to its tiles."""
        self._tiles.start(trajectory, trajectory.current.complements.plugin, overview)
        trajectory.prepared, trajectory.decoded = None, None
        trajectory.stage = Stage.TILING

    def advance_tiles(self, trajectory: Trajectory) -> UnitPixels | None:
        """One call's work on a large photo; the restored photo (H, W, 3) after the last."""
        return self._tiles.advance(trajectory)


@contextlib.contextmanager
def _timed(trajectories: Sequence[Trajectory], stage: str) -> Iterator[None]:
    """Adds the seconds inside to a timing of all: who shares a call waits for all of it."""
    began = time.perf_counter()
    yield
    seconds = time.perf_counter() - began
    for trajectory in trajectories:
        trajectory.spend(stage, seconds)


def seeded_noise(shape: torch.Size, seed: int) -> Tensor:
    """Drawn on the CPU, so that a seed means the same noise on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
