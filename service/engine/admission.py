"""What an edit asks of the memory, told before it runs, whichever of its plugins runs."""

from collections.abc import Sequence

from service import errors
from service.engine.complements import steps_per_window
from service.engine.memory_budget import Demand, MemoryBudget
from service.engine.model_runner import ModelRunner
from service.engine.shifts import offsets
from service.engine.tile_runner import canvas_bytes
from service.engine.trajectory import Trajectory
from service.plugin_manifest import PluginManifest

MIB = 2**20


class Admission:
    """Sets trajectories' demands; the scheduler then runs those together that fit."""

    def __init__(self, runner: ModelRunner, budget: MemoryBudget) -> None:
        self._runner, self.budget = runner, budget

    def admit(self, trajectory: Trajectory, manifests: Sequence[PluginManifest]) -> None:
        """Set its demand. What is too large for memory is restored in tiles, then in smaller ones.

        ImageTooLarge if not even that can ever fit.
        """
        trajectory.demand = self._demand(trajectory, manifests)
        for shrink in (trajectory.restart_in_tiles, trajectory.restart_smaller):
            if self.budget.fits([trajectory.demand]) or self._runner.preset.resizes_to_grid:
                break
            shrink()
            trajectory.demand = self._demand(trajectory, manifests)
        if not self.budget.fits([trajectory.demand]):
            raise errors.ImageTooLarge(self._refusal(trajectory))

    def _refusal(self, trajectory: Trajectory) -> str:
        height, width = trajectory.input.shape[:2]
        needed = trajectory.demand.held + trajectory.demand.once
        return (
            f"{width}x{height} pixels need {needed / MIB:.0f} MiB of this worker's memory, which "
            f"has {self.budget.max_bytes / MIB:.0f} MiB for edits: send fewer pixels or ask for "
            "fewer steps, or give the worker more (DIFFPLUGIN_MEMORY_SHARE)"
        )

    def _demand(self, trajectory: Trajectory, manifests: Sequence[PluginManifest]) -> Demand:
        num_views = max(m.num_shifts for m in manifests)
        steps = trajectory.edit.steps or max(m.default_steps for m in manifests)
        height, width = (self._padded(side) for side in trajectory.size)
        whole = self._rows(height, width, num_views, steps)
        large = trajectory.large
        if large is None:
            return whole
        side = large.tile_side
        tiles = self._rows(side, side, large.max_rows, 1)
        canvas = canvas_bytes(large.pixels.shape[:2], self._runner.backbone)
        return Demand(max(whole.held, tiles.held + canvas), whole.once)

    def _rows(self, height: int, width: int, num_rows: int, steps: int) -> Demand:
        backbone = self._runner.backbone
        latents = height * width // backbone.patch_size**2
        channels = sum(self._runner.step_widths)
        bytes_per_step = channels * num_rows * latents * backbone.dtype.itemsize
        steps_ahead = min(steps, steps_per_window(bytes_per_step))
        window_bytes = steps_ahead * bytes_per_step
        return self.budget.demand(height * width, num_rows, steps_ahead, window_bytes)

    def _padded(self, side: int) -> int:
        """To the grid, with the largest shift."""
        backbone = self._runner.backbone
        shifted = side + max(max(shift) for shift in offsets(4, backbone.patch_size))
        return int(shifted + -shifted % backbone.pixel_multiple)
