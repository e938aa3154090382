"""Publish a plugin to a fleet, or remove it: the files in plugins_store, then the word in Redis.

Processes follow the word within a second. Jobs that run go on with the version they started with.
"""

import asyncio
from pathlib import Path

from service import plugin_versions as versions
from service.errors import UnknownPlugin
from service.job_queue import JobQueue
from service.plugin_manifest import PluginManifest, installed_plugins
from service.queue_plugins import FleetPlugins


class Publisher:
    """Publishes plugins of one base; `kept_s` is how long a job may need a version replaced."""

    def __init__(self, queue: JobQueue, store: Path, base: str, kept_s: float) -> None:
        self._fleet = FleetPlugins(queue, base)
        self._store, self._base, self._kept_s = store, base, kept_s

    async def publish(self, folder: Path) -> PluginManifest:
        """Serve the plugin in `folder` on the whole fleet, in place of another version or new."""
        manifest = await asyncio.to_thread(versions.check_plugin, folder, self._base)
        served = (await self._served()).get(manifest.name)
        await asyncio.to_thread(self._keep, folder, manifest)
        await self._fleet.publish(manifest)
        await asyncio.to_thread(self._settle, manifest, served)
        return manifest

    async def remove(self, name: str) -> None:
        """Serve it no more; its files stay among its versions, to be published again."""
        served = (await self._served()).get(name)
        if served is None:
            raise UnknownPlugin(f"no plugin is called {name!r}; see: diffplugin plugins fleet")
        await asyncio.to_thread(versions.keep_default, self._store, self._base, name)
        await self._fleet.remove(name)
        await asyncio.to_thread(versions.drop_default, self._store, self._base, name)

    async def _served(self) -> dict[str, PluginManifest]:
        installed = await asyncio.to_thread(installed_plugins, self._store, self._base)
        return (await self._fleet.published()).over(installed)

    def _keep(self, folder: Path, manifest: PluginManifest) -> None:
        versions.keep_default(self._store, self._base, manifest.name)
        versions.keep_version(self._store, folder, manifest)

    def _settle(self, manifest: PluginManifest, served: PluginManifest | None) -> None:
        versions.set_default(self._store, manifest)
        if served is not None and served.version != manifest.version:
            versions.retire(self._store, served)
        versions.prune_versions(
            self._store, self._base, manifest.name, manifest.version, self._kept_s
        )
