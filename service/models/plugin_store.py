"""PluginStore: the plugins of one base on disk, and which of them are served."""

import logging
from collections.abc import Mapping
from pathlib import Path

from service.errors import UnknownPlugin
from service.models.backbone import Backbone
from service.models.plugin import Plugin
from service.models.residency import MIB, Residency, ResidentPlugins
from service.plugin_manifest import (
    PluginManifest,
    Published,
    installed_plugins,
    plugin_folder,
    read_manifest,
    version_folder,
)

log = logging.getLogger(__name__)

PAUSE_S = 0.05  # longer than most steps, so that each is held up by one part at most


class PluginStore:
    """Plugins by name; those used last are on the device, within a budget of bytes.

    Published plugins are served in their published version, all others as they lie on disk.
    """

    def __init__(
        self,
        root: Path,
        backbone: Backbone,
        max_bytes: int = 2048 * MIB,
        max_host_bytes: int = 8192 * MIB,
        has_host_tier: bool | None = None,
    ) -> None:
        """Budgets: of the device and, where that has its own memory, of the host."""
        self._root, self._backbone = root, backbone
        self._plugins = ResidentPlugins(backbone.device, max_bytes, max_host_bytes, has_host_tier)
        self._published: Mapping[str, PluginManifest | None] = {}
        self._current: dict[str, str] = {}

    @property
    def residency(self) -> Residency:
        """What became of the plugins' weights so far."""
        return self._plugins.counts

    @property
    def bytes_to_come(self) -> int:
        """That plugins may yet take on the device."""
        return self._plugins.bytes_to_come

    @property
    def resident(self) -> tuple[str, ...]:
        """Names, without repetition: an old version stays while there is room."""
        return tuple(dict.fromkeys(name for (name, _), _ in self._plugins.plugins))

    @property
    def versions(self) -> dict[str, str]:
        """By name, of what is served: as published, else as it was when it was last asked for."""
        published = self._published
        own = {name: version for name, version in self._current.items() if name not in published}
        return own | {name: m.version for name, m in published.items() if m is not None}

    def load_all(self) -> None:
        """Load installed plugins while they fit, so that no request waits for a file."""
        for name in installed_plugins(self._root, self._backbone.name):
            if self._plugins.is_full:
                return
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
                    self._load(manifest, PAUSE_S)
            except (UnknownPlugin, OSError) as error:
                log.warning("plugin %s is not followed: %s", name, error)
                faults[name] = str(error)
                if name in self._published:
                    following[name] = self._published[name]
            else:
                following[name] = manifest
        self._published = following
        return faults

    def get(self, name: str, version: str | None = None) -> Plugin:
        """The plugin, loaded if it is new or changed on disk; UnknownPlugin if it is not there.

        `version` is preferred, if it is still to be had: jobs end with what they started with. A
        running edit keeps the object it got, so replacing or removing files disturbs nothing.
        """
        plugin = self._load(self._wanted(name, version))
        if version is None:
            self._current[name] = plugin.manifest.version
        return plugin

    def prefetch(self, name: str, version: str | None = None) -> PluginManifest:
        """Begin to load what get() will be asked for; its manifest, or UnknownPlugin."""
        manifest = self._wanted(name, version)
        self._plugins.prefetch(_key(manifest), lambda: self._read(manifest, PAUSE_S))
        if version is None:
            self._current[name] = manifest.version
        return manifest

    def is_coming(self, name: str, version: str) -> bool:
        """Its weights are on their way; get() would wait for them."""
        if not self._plugins.num_coming:
            return False
        return self._plugins.is_coming(_key(self._wanted(name, version)))

    def _wanted(self, name: str, version: str | None) -> PluginManifest:
        """What is served, if it is of that version or there is no other of it."""
        try:
            served = self._served(name)
        except UnknownPlugin:
            if version is not None and (found := self._find(name, version)):
                return found
            raise
        if version is None or served.version == version:
            return served
        return self._find(name, version) or served

    def _served(self, name: str) -> PluginManifest:
        if name not in self._published:
            return read_manifest(plugin_folder(self._root, self._backbone.name, name))
        manifest = self._published[name]
        if manifest is None:
            raise UnknownPlugin(f"plugin {name!r} was removed from the fleet")
        return manifest

    def _find(self, name: str, version: str) -> PluginManifest | None:
        """Of that very version: resident, or on disk."""
        for (held, _), plugin in reversed(self._plugins.plugins):  # the one used last
            if held == name and plugin.manifest.version == version:
                return plugin.manifest
        folder = version_folder(self._root, self._backbone.name, name, version)
        return read_manifest(folder, is_named=False) if folder.is_dir() else None

    def _load(self, manifest: PluginManifest, pause_s: float = 0.0) -> Plugin:
        """What the manifest describes, on the device."""
        key = _key(manifest)
        held = self._plugins.get(key, lambda: self._read(manifest, pause_s))
        described = held.under(manifest)
        if described is not held:
            self._plugins.replace(key, described)
        return described

    def _read(self, manifest: PluginManifest, pause_s: float) -> Plugin:
        return Plugin.load(self._folder_of(manifest), self._backbone, pause_s)

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


def _key(manifest: PluginManifest) -> tuple[str, str]:
    return manifest.name, manifest.digest
