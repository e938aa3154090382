"""Runs the networks for large photos: opens canvases, denoises tiles, composes the result."""

import time

import torch
from torch import Tensor

from service.engine.canvas import HISTORY, Canvas, Tile, tiles_of
from service.engine.large_photo import LargePhoto, LargeTask, window_of
from service.engine.large_refine import refine_large
from service.engine.sampling import NoiseSchedule, update
from service.engine.shifts import offsets
from service.engine.tiles import Axis, cut
from service.engine.tone import take_tone
from service.engine.trajectory import Trajectory
from service.images import UnitPixels
from service.models.attention import FusedAttention
from service.models.backbone import Backbone
from service.models.denoiser import denoise
from service.models.plugin import Plugin

NUM_FIELDS = 1 + 2 * (1 + len(HISTORY))  # of a canvas: the condition, the state and the next one
NUM_PHOTOS = 4  # float32 (H, W, 3) at the end: restored, refined, in its tone, and between two


class TileRunner:
    """advance() a trajectory, whose photo is large and whose overview is restored, to its end."""

    def __init__(
        self, backbone: Backbone, noise_schedule: NoiseSchedule, attention: FusedAttention
    ) -> None:
        self.backbone, self.noise_schedule, self.attention = backbone, noise_schedule, attention

    @torch.inference_mode()
    def start(self, trajectory: Trajectory, plugin: Plugin, overview: UnitPixels) -> None:
        """Begin with the tiles of a task; the tokens are those of the photo reduced."""
        assert trajectory.large is not None
        shifts = offsets(plugin.manifest.num_shifts, self.backbone.patch_size)
        steps = trajectory.edit.steps or plugin.manifest.default_steps
        height, width = trajectory.large.pixels.shape[:2]
        tokens = plugin.tpb(self.backbone.image_features([trajectory.pixels]))
        trajectory.large.task = LargeTask(
            overview=overview,
            plugin=plugin,
            table=self.noise_schedule.table(min(steps, len(self.noise_schedule.alphas_cumprod))),
            shifts=shifts,
            tokens=tokens,
            context=self.attention.project(tokens),
            axes=self._axes(trajectory.large, shifts),
            max_rows=trajectory.large.max_rows,
            views=torch.zeros(3, height, width),
        )

    @torch.inference_mode()
    def advance(self, trajectory: Trajectory) -> UnitPixels | None:
        """One piece of work, of one call's size; the restored photo (H, W, 3) after the last."""
        began = time.perf_counter()
        large = trajectory.large
        assert large is not None and large.task is not None
        task, stage = large.task, "denoise_s"
        if task.canvas is None:
            task.canvas, stage = self._open_canvas(large, task, trajectory.edit.seed), "prepare_s"
        elif task.step < len(task.table):
            task.step += self._denoise(task, task.canvas)
        else:
            stage = "finish_s"
            self._compose(task, task.canvas)
            task.view, task.step, task.canvas = task.view + 1, 0, None
        restored = _finished(large, task, trajectory.edit.seed) if task.is_done else None
        trajectory.spend(stage, time.perf_counter() - began)
        return restored

    def _open_canvas(self, large: LargePhoto, task: LargeTask, seed: int) -> Canvas:
        """The photo's latents at the present shift, and where its sampling starts."""
        down, across = task.axes
        tiles = tiles_of(down, across, self.backbone.device)
        channels = self.backbone.unet.config["out_channels"]
        shape = (channels, down.length, across.length)
        cond = torch.zeros(shape, device=self.backbone.device)
        for tile in tiles:
            part = self.backbone.encode(self._view_of(large, task, tile))[0]
            tile.cut_from(cond).add_(tile.weights * part)
        # Another noise for each view, drawn on the CPU: the same on every device.
        generator = torch.Generator().manual_seed((seed + task.view) % 2**63)
        x = torch.randn(shape, generator=generator).to(cond.device)
        if task.plugin.manifest.start == "image":
            for plane, clean in zip(x, cond, strict=True):
                plane.copy_(task.table.add_noise(clean, plane))
        return Canvas(tiles, cond, x, task.max_rows, task.table.has_history)

    def _axes(self, large: LargePhoto, shifts: list[tuple[int, int]]) -> tuple[Axis, Axis]:
        """Of the photo with its largest shift, in latents, down and across."""
        patch, multiple = self.backbone.patch_size, self.backbone.pixel_multiple
        most = max(max(shift) for shift in shifts)

        def axis(pixels: int) -> Axis:
            padded = pixels + most + -(pixels + most) % multiple
            side, overlap = large.tile_side // patch, large.tile_overlap // patch
            return cut(padded // patch, side, overlap, multiple // patch)

        return axis(large.pixels.shape[0]), axis(large.pixels.shape[1])

    def _view_of(self, large: LargePhoto, task: LargeTask, tile: Tile) -> Tensor:
        """(1, 3, h, w) in [-1, 1]: what a tile shows."""
        rows, columns = self._in_pixels(tile.rows), self._in_pixels(tile.columns)
        pixels = window_of(large.pixels, task.shifts[task.view], rows, columns)
        return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1

    def _in_pixels(self, latents: slice) -> slice:
        patch = self.backbone.patch_size
        return slice(patch * latents.start, patch * latents.stop)

    def _denoise(self, task: LargeTask, canvas: Canvas) -> bool:
        """One UNet call for the tiles that are due; True if this was the last of the step."""
        state, cond = canvas.rows()
        num_rows, dtype = len(cond), self.backbone.dtype
        timesteps = task.table.timesteps[task.step].expand(num_rows).to(cond.device)
        tokens = task.tokens.expand(num_rows, -1, -1)
        added = task.plugin.scb(cond.to(dtype), timesteps, tokens)
        context = task.context.expand(num_rows, -1, -1)
        output = denoise(
            self.backbone.unet, state.x.to(dtype), timesteps, context, added.residuals, added.skip
        )
        return canvas.accept(update(state, output, task.table.rows[task.step].expand(num_rows, -1)))

    def _compose(self, task: LargeTask, canvas: Canvas) -> None:
        """Decode the tiles of a view and add their blend to what is restored."""
        patch, (down, right) = self.backbone.patch_size, task.shifts[task.view]
        for tile in canvas.tiles:
            latents = tile.cut_from(canvas.x)[None].to(self.backbone.dtype)
            image = self.backbone.decode(latents)[0].float().cpu()
            weights = torch.nn.functional.interpolate(
                tile.weights[None, None].cpu(), scale_factor=patch, mode="nearest"
            )[0]
            image *= weights / len(task.shifts)
            _add_clipped(
                task.views,
                image,
                patch * tile.rows.start - down,
                patch * tile.columns.start - right,
            )


def canvas_bytes(size: tuple[int, int], backbone: Backbone) -> int:
    """Of the tiles' common state and of what is restored, of a photo (height, width), at most."""
    pixels = size[0] * size[1]
    latents = pixels // backbone.patch_size**2 * int(backbone.unet.config["out_channels"])
    in_host_memory = 0 if backbone.device.type == "cuda" else NUM_PHOTOS * 3 * pixels
    return 4 * (NUM_FIELDS * latents + in_host_memory)


def _add_clipped(target: Tensor, part: Tensor, top: int, left: int) -> None:
    """Add (C, h, w) to (C, H, W) at a place, which may lie partly outside."""
    height, width = target.shape[1:]
    rows = slice(max(0, top), min(height, top + part.shape[1]))
    columns = slice(max(0, left), min(width, left + part.shape[2]))
    seen = part[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    target[:, rows, columns] += seen


def _finished(large: LargePhoto, task: LargeTask, seed: int) -> UnitPixels:
    views = task.views
    if task.plugin.stage is not None:
        views = refine_large(task.plugin.stage, large.pixels, views, seed)
    image = views.div_(2).add_(0.5).permute(1, 2, 0).numpy()
    return take_tone(image, task.overview)
