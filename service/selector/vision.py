"""F^p of one image for the installed plugins: what VP looks at."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from service.errors import UnknownPlugin
from service.images import Pixels
from service.models.backbone import Backbone, pick_device
from service.models.plugin_store import PluginStore
from service.plugin_manifest import Published


class PromptReader:
    """Image encoder and TPBs of one base."""

    def __init__(self, store: Path, base: str, device: str) -> None:
        self._backbone = Backbone.load(store / base, pick_device(device))
        self._plugins = PluginStore(store, self._backbone)

    def follow(self, published: Published) -> None:
        self._plugins.follow(published)

    @torch.inference_mode()
    def prompts(self, pixels: Pixels, names: Iterable[str]) -> dict[str, Tensor]:
        """F^p (N, D) by plugin; a plugin that cannot be read is left out."""
        features = self._backbone.image_features([pixels])
        read: dict[str, Tensor] = {}
        for name in names:
            try:
                read[name] = self._plugins.get(name).tpb(features)[0].float().cpu()
            except UnknownPlugin:
                # Removed a moment ago, or broken: its text prototype stands in.
                continue
        return read
