"""SCB ahead of time: any window gives what one call gives, and memory stays bounded."""

from pathlib import Path

import torch
from torch import Tensor

from service.engine.complements import Complements, complement_widths
from service.models.backbone import Backbone
from service.models.plugin_store import PluginStore
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin

NUM_STEPS = 7


def test_windows_of_any_length_agree_and_hold_no_more_than_allowed(tmp_path: Path) -> None:
    write_tiny_base(tmp_path)
    write_tiny_plugin(tmp_path, "derain", seed=1)
    backbone = Backbone.load(tmp_path / BASE)
    plugin = PluginStore(tmp_path, backbone).get("derain")
    widths = complement_widths(dict(backbone.unet.config), predicts_sample=True)
    cond, tokens = torch.randn(2, 192, 4, 6), torch.randn(1, 16, 128)
    timesteps = torch.arange(100, 0, -100 // NUM_STEPS)[:NUM_STEPS]
    bytes_per_step = sum(widths) * cond[:, 0].numel() * cond.element_size()

    @torch.inference_mode()
    def steps(num_ahead: int) -> list[Tensor]:
        most = num_ahead * bytes_per_step
        complements = Complements(plugin, cond, timesteps, tokens, widths, most)
        found = []
        for step in range(NUM_STEPS):
            found.append(complements.at(step))
            assert sum(part.nbytes for part in complements.window) <= most
        return found

    whole = steps(NUM_STEPS)
    assert whole[0].shape == (2, sum(widths), 4, 6)
    assert (whole[0] - whole[-1]).abs().max() > 1e-3
    for num_ahead in (1, 3):
        for part, expected in zip(steps(num_ahead), whole, strict=True):
            torch.testing.assert_close(part, expected, atol=1e-4, rtol=1e-4)
