"""What the SCB adds at every step of one task, computed a window of steps ahead.

The SCB never reads the noisy latent, so many steps can share one call, before they are run.
"""

import torch
from torch import Tensor

from service.models.plugin import Plugin
from service.models.scb import SCBConfig

MAX_WINDOW_BYTES = 128 * 2**20  # per edit; all 20 steps of a 512x512 edit of Stable Diffusion fit


class Complements:
    """at(step) is one tensor (V, E, h, w): the residuals and the output skip, side by side."""

    def __init__(
        self,
        plugin: Plugin,
        cond: Tensor,
        timesteps: Tensor,
        tokens: Tensor,
        widths: tuple[int, ...],
        max_bytes: int = MAX_WINDOW_BYTES,
    ) -> None:
        self.plugin = plugin
        self.cond, self._timesteps, self.tokens = cond, timesteps, tokens
        self._width = sum(widths)
        bytes_per_step = self._width * cond[:, 0].numel() * cond.element_size()
        self._num_ahead = steps_per_window(bytes_per_step, max_bytes)
        self._start, self._window = 0, self._compute(0)

    def at(self, step: int) -> Tensor:
        """Steps are asked for in ascending order; what lies behind is forgotten."""
        if step >= self._start + len(self._window):
            self._start, self._window = step, self._compute(step)
        return self._window[step - self._start]

    @property
    def window(self) -> tuple[Tensor, ...]:
        return self._window

    def _compute(self, start: int) -> tuple[Tensor, ...]:
        """One SCB call for the steps from `start` on."""
        timesteps = self._timesteps[start : start + self._num_ahead]
        num_steps, num_views = len(timesteps), len(self.cond)
        output = self.plugin.scb(
            self.cond.repeat(num_steps, 1, 1, 1),
            timesteps.repeat_interleave(num_views),
            self.tokens.expand(num_steps * num_views, -1, -1),
        )
        parts = [*output.residuals] + ([] if output.skip is None else [output.skip])
        missing = self._width - sum(part.shape[1] for part in parts)
        if missing:  # a plugin without gain head, on a base whose other plugins have one
            parts.append(parts[0].new_zeros(len(parts[0]), missing, *parts[0].shape[2:]))
        return torch.cat(parts, dim=1).split_with_sizes([num_views] * num_steps)


def steps_per_window(bytes_per_step: int, max_bytes: int = MAX_WINDOW_BYTES) -> int:
    """How many steps of an edit are computed, and kept, at once."""
    return max(1, max_bytes // bytes_per_step)


def complement_widths(unet: dict[str, object], predicts_sample: bool) -> tuple[int, ...]:
    """Channels of each residual and, for a base that predicts the sample, of the output skip."""
    config = SCBConfig.from_unet(unet, predicts_sample)
    skip = (config.in_channels,) if predicts_sample else ()
    return (config.channels,) * (config.num_layers + 1) + skip
