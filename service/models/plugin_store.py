"""PluginStore: the plugins of one base on disk, loaded once and kept resident."""

import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from service.errors import UnknownPlugin
from service.models.backbone import Backbone
from service.models.plugin import Plugin
from service.plugin_manifest import (
    PluginManifest,
    Published,
    installed_plugins,
    plugin_folder,
    read_manifest,
    version_folder,
)

log = logging.getLogger(__name__)

FOLLOW_PAUSE_S = 0.05  # longer than most steps, so that each is held up by one part at most


@dataclass
class Residency:
    """What a store has done since it was made, for those who measure it."""

    num_hits: int = 0  # a plugin was asked for and resident
    num_misses: int = 0  # it had to be loaded
    num_evictions: int = 0
    load_s: float = 0.0  # of all loads
    resident_bytes: int = 0  # of the plugins' weights


class PluginStore:
    """Plugins by name; at most `max_resident` stay loaded, the least recently used leaves first.

    Published plugins are served in their published version, all others as they lie on disk.
    """

    def __init__(self, root: Path, backbone: Backbone, max_resident: int = 32) -> None:
        self._root, self._backbone, self._max_resident = root, backbone, max_resident
        self._resident: OrderedDict[tuple[str, str], Plugin] = OrderedDict()  # by name and digest
        self._published: Mapping[str, PluginManifest | None] = {}
        self._current: dict[str, str] = {}
        self._lock = Lock()  # follow() may run beside get()
        self.residency = Residency()

    @property
    def resident(self) -> tuple[str, ...]:
        """Names, without repetition: an old version stays while there is room."""
        with self._lock:
            return tuple(dict.fromkeys(name for name, _ in self._resident))

    @property
    def versions(self) -> dict[str, str]:
        """By name, of what was served last."""
        return dict(self._current)

    def load_all(self) -> None:
        """Load every installed plugin that fits, so that no request waits for a file."""
        for name in list(installed_plugins(self._root, self._backbone.name))[: self._max_resident]:
            try:
                self.get(name)
            except UnknownPlugin as error:
                log.warning("plugin %s is not served: %s", name, error)

    def follow(self, published: Published) -> dict[str, str]:
        """Serve what was published; by name, what is wrong with those that cannot be loaded.

        A version that cannot be loaded changes nothing: the one before goes on.
        """
        following: dict[str, PluginManifest | None] = {}
        faults: dict[str, str] = {}
        for name, manifest in published.plugins.items():
            try:
                if manifest is not None:
                    self._load(manifest, FOLLOW_PAUSE_S)
            except (UnknownPlugin, OSError) as error:
                log.warning("plugin %s is not followed: %s", name, error)
                faults[name] = str(error)
                if name in self._published:
                    following[name] = self._published[name]
            else:
                following[name] = manifest
        self._published = following
        self._note_versions(following)
        return faults

    def get(self, name: str, version: str | None = None) -> Plugin:
        """The plugin, loaded if it is new or changed on disk; UnknownPlugin if it is not there.

        `version` is preferred, if it is still to be had: jobs end with what they started with. A
        running edit keeps the object it got, so replacing or removing files disturbs nothing.
        """
        if version is not None and (found := self._find(name, version)) is not None:
            return found
        plugin = self._load(self._served(name))
        self._current[name] = plugin.manifest.version
        return plugin

    def _note_versions(self, following: Mapping[str, PluginManifest | None]) -> None:
        for name, manifest in following.items():
            if manifest is None:
                self._current.pop(name, None)
            else:
                self._current[name] = manifest.version

    def _served(self, name: str) -> PluginManifest:
        if name not in self._published:
            return read_manifest(plugin_folder(self._root, self._backbone.name, name))
        manifest = self._published[name]
        if manifest is None:
            raise UnknownPlugin(f"plugin {name!r} was removed from the fleet")
        return manifest

    def _find(self, name: str, version: str) -> Plugin | None:
        """That very version: resident, or on disk."""
        with self._lock:
            for (held, _), plugin in reversed(self._resident.items()):  # the one used last
                if held == name and plugin.manifest.version == version:
                    return plugin
        folder = version_folder(self._root, self._backbone.name, name, version)
        if not folder.is_dir():
            return None
        return self._load(read_manifest(folder, is_named=False))

    def _load(self, manifest: PluginManifest, pause_s: float = 0.0) -> Plugin:
        """What the manifest describes, from memory or from disk."""
        key = (manifest.name, manifest.digest)
        with self._lock:
            held = self._resident.get(key)
        load_s = 0.0
        is_hit = held is not None
        if held is None:
            start = time.perf_counter()
            held = Plugin.load(self._folder_of(manifest), self._backbone, pause_s)
            load_s = time.perf_counter() - start
        held = held.under(manifest)
        with self._lock:
            self._resident[key] = held
            self._resident.move_to_end(key)
            num_evicted = max(0, len(self._resident) - self._max_resident)
            for _ in range(num_evicted):
                self._resident.popitem(last=False)
            self._count(is_hit, num_evicted, load_s)
        return held

    def _count(self, is_hit: bool, num_evicted: int, load_s: float) -> None:
        counts = self.residency
        counts.num_hits += is_hit
        counts.num_misses += not is_hit
        counts.num_evictions += num_evicted
        counts.load_s += load_s
        if not is_hit:
            counts.resident_bytes = sum(plugin.num_bytes for plugin in self._resident.values())

    def _folder_of(self, manifest: PluginManifest) -> Path:
        kept = version_folder(self._root, self._backbone.name, manifest.name, manifest.version)
        if kept.is_dir() and read_manifest(kept, is_named=False).digest == manifest.digest:
            return kept
        folder = plugin_folder(self._root, self._backbone.name, manifest.name)
        if read_manifest(folder).digest != manifest.digest:
            raise UnknownPlugin(
                f"{manifest.name} {manifest.version} ({manifest.digest}) is not in {folder}; "
                "all processes of a fleet need the same plugins_store"
            )
        return folder
