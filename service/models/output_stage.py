"""The output stage: sets the tone of a restored photo and refines it in pixels, seeing the input.

The base's narrow levels miss the tone of the whole by a little, and blur what lies below 8 pixels:
a colour transform (tone.py) and then a small U-Net in pixels put both right.
Like the controllable feature wrapping of StableSR (Wang et al. 2023) it comes after the decoder and
reads the degraded photo; unlike it, it works on pixels and belongs to one plugin.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.models.tone import Tone
from service.plugin_manifest import OutputStageConfig


class OutputStage(nn.Module):
    """A change of the restored photo, zero in a fresh one. It knows no shape but its multiple."""

    def __init__(self, config: OutputStageConfig) -> None:
        super().__init__()
        self.config = config
        widths, patch = config.channels, config.patch_size
        self.tone = Tone(config.levels)
        num_colours = 9 if config.noise else 6
        self.conv_in = nn.Conv2d(num_colours * patch**2, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(ResidualBlock(width) for width in widths)
        pairs = list(zip(widths, widths[1:], strict=False))
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)
        self.ups = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairs)
        self.up_blocks = nn.ModuleList(ResidualBlock(width) for width in widths[:-1])
        self.conv_out = nn.Conv2d(widths[0], 3 * patch**2, 3, padding=1)
        torch.nn.init.zeros_(self.conv_out.weight)
        assert self.conv_out.bias is not None
        torch.nn.init.zeros_(self.conv_out.bias)

    @property
    def multiple(self) -> int:
        """Sides of what the network sees are a multiple of this; forward pads."""
        return int(self.config.patch_size * 2 ** len(self.downs))

    def forward(self, images: Tensor, restored: Tensor, noise: Tensor | None = None) -> Tensor:
        """images, restored (B, 3, H, W) in [-1, 1] -> the refined photos, same shape.

        With config.noise also white noise (B, 3, H, W), of unit variance.
        """
        return self.refine(images, self.tone(images, restored), noise)

    def refine(self, images: Tensor, restored: Tensor, noise: Tensor | None = None) -> Tensor:
        """The U-Net alone: local, so that a large photo may come in parts that overlap."""
        height, width = restored.shape[-2:]
        seen = torch.cat([images, restored, *([] if noise is None else [noise])], 1)
        padding = (0, -width % self.multiple, 0, -height % self.multiple)
        seen = F.pad(seen, padding, mode="replicate")
        change = self._change(seen)
        if self.config.mirrored and not self.training:  # which sees each anyway, by chance
            change = (change + self._change(seen.flip(-1)).flip(-1)) / 2
        return restored + change[..., :height, :width]

    def _change(self, seen: Tensor) -> Tensor:
        """(B, 6 or 9, H, W) -> (B, 3, H, W), down and up the levels with skips between."""
        patch = self.config.patch_size
        hidden = self.down_blocks[0](self.conv_in(F.pixel_unshuffle(seen, patch)))
        skips = []
        for down, block in zip(self.downs, list(self.down_blocks)[1:], strict=True):
            skips.append(hidden)
            hidden = block(down(hidden))
        for up, block in zip(reversed(self.ups), reversed(self.up_blocks), strict=True):
            hidden = block(F.pixel_shuffle(up(hidden), 2) + skips.pop())
        return F.pixel_shuffle(self.conv_out(hidden), patch)


class ResidualBlock(nn.Module):
    """x + conv(act(conv(x))), with no norm: brightness is information here."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.conv2(F.leaky_relu(self.conv1(x), 0.1))
        return x + change
