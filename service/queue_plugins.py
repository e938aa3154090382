"""The plugins that a fleet is to serve, as Redis has them: name, version and digest of each."""

import logging
from typing import Any

from pydantic import ValidationError

from service.job_queue import JobQueue
from service.plugin_manifest import PluginManifest, Published
from service.queue_streams import outages_named

log = logging.getLogger(__name__)

REMOVED = b"removed"
GENERATION = b""  # a field that no plugin can have


class FleetPlugins:
    """What was published for one base. Kept without an end, like a setting."""

    def __init__(self, queue: JobQueue, base: str) -> None:
        self._redis, self._key = queue.redis, queue.key("plugins", base)

    async def generation(self) -> int:
        """A number that is another after each publication; 0 if there was none."""
        with outages_named():
            number: Any = await self._redis.hget(self._key, GENERATION)
        return int(number or 0)

    async def published(self) -> Published:
        with outages_named():
            fields: Any = await self._redis.hgetall(self._key)
        generation = int(fields.pop(GENERATION, 0))
        plugins: dict[str, PluginManifest | None] = {}
        for name, text in fields.items():
            try:
                plugins[name.decode()] = (
                    None if text == REMOVED else PluginManifest.model_validate_json(text)
                )
            except ValidationError as error:  # a newer release wrote it
                log.warning("what was published of %s is not understood: %s", name, error)
        return Published(generation, plugins)

    async def publish(self, manifest: PluginManifest) -> None:
        """Every process of the fleet is to serve this version."""
        await self._set(manifest.name, manifest.model_dump_json().encode())

    async def remove(self, name: str) -> None:
        """No process of the fleet is to serve this plugin, whatever lies on its disk."""
        await self._set(name, REMOVED)

    async def _set(self, name: str, value: bytes) -> None:
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(self._key, name, value)
            pipe.hincrby(self._key, GENERATION, 1)
            with outages_named():
                await pipe.execute()
