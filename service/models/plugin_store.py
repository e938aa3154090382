"""PluginStore: the plugins of one base on disk, loaded once and kept resident."""

import logging
from collections import OrderedDict
from pathlib import Path

from service.errors import UnknownPlugin
from service.models.backbone import Backbone
from service.models.plugin import Plugin
from service.plugin_manifest import installed_plugins, plugin_folder, read_manifest

log = logging.getLogger(__name__)


class PluginStore:
    """Plugins by name; at most `max_resident` stay loaded, the least recently used leaves first."""

    def __init__(self, root: Path, backbone: Backbone, max_resident: int = 32) -> None:
        self._root, self._backbone, self._max_resident = root, backbone, max_resident
        self._resident: OrderedDict[str, Plugin] = OrderedDict()

    @property
    def resident(self) -> tuple[str, ...]:
        return tuple(self._resident)

    def load_all(self) -> None:
        """Load every installed plugin that fits, so that no request waits for a file."""
        for name in list(installed_plugins(self._root, self._backbone.name))[: self._max_resident]:
            try:
                self.get(name)
            except UnknownPlugin as error:
                log.warning("plugin %s is not served: %s", name, error)

    def get(self, name: str) -> Plugin:
        """The plugin, loaded if it is new or changed on disk; UnknownPlugin if it is not there.

        A running edit keeps the object it got, so replacing or removing files disturbs nothing.
        """
        folder = plugin_folder(self._root, self._backbone.name, name)
        manifest = read_manifest(folder)
        held = self._resident.get(name)
        if held is None or held.manifest.digest != manifest.digest:
            held = Plugin.load(folder, self._backbone)
            self._resident[name] = held
        self._resident.move_to_end(name)
        while len(self._resident) > self._max_resident:
            self._resident.popitem(last=False)
        return held
