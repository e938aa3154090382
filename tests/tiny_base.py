"""A base and plugins with random weights, small enough to run hundreds of steps in a test."""

from pathlib import Path

import torch
from torch import nn

from service.models.plugin import save_plugin
from service.models.scb import SCB
from service.models.tpb import TPB
from service.plugin_manifest import PluginManifest, plugin_folder
from service.training import nano
from service.training.degradations import TASKS
from service.training.restorer import Restorer
from service.training.train_base import save_base

BASE = "tiny"


def write_tiny_base(store: Path) -> None:
    """plugins_store with base "tiny"; its output convolution is not zero, so steps matter."""
    torch.manual_seed(0)
    unet = nano.build_unet(nano.NanoSize((32, 32)))
    photos = [torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8).numpy() for _ in range(16)]
    codec = nano.fit_codec(photos)
    tpbs = {task: nano.build_tpb() for task in TASKS}
    encoder, scheduler, scb = (
        nano.build_image_encoder(),
        nano.build_scheduler(),
        nano.build_scb(unet),
    )
    model = Restorer(unet, encoder, codec, scheduler, scb, tpbs)
    _randomise(unet.conv_out, 0.3)
    save_base(model, store / BASE)


def write_tiny_plugin(
    store: Path,
    name: str,
    seed: int,
    default_steps: int = 4,
    num_shifts: int = 1,
    version: str = "1.0.0",
) -> PluginManifest:
    """A plugin of base "tiny" whose residuals and gain are not zero and depend on `seed`."""
    torch.manual_seed(seed)
    scb = nano.build_scb(nano.build_unet(nano.NanoSize((32, 32))))
    for conv in (*scb.taps, scb.gain):
        _randomise(conv, 0.2)
    manifest = PluginManifest(
        name=name,
        title=f"Task {name}",
        version=version,
        base=BASE,
        example_instructions=(f"please {name} this",),
        default_steps=default_steps,
        num_shifts=num_shifts,
        output_skip=True,
        licence="Apache-2.0",
        digest="sha256:" + 64 * "0",
    )
    folder = plugin_folder(store, BASE, name)
    tpb = TPB(nano.VISION_WIDTH, nano.CROSS_ATTENTION_DIM)
    assert isinstance(scb, SCB)
    return save_plugin(folder, tpb, scb, manifest, "")


def _randomise(conv: nn.Module | None, std: float) -> None:
    assert isinstance(conv, nn.Conv2d)
    torch.nn.init.normal_(conv.weight, std=std)
