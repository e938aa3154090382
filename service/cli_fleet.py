"""`diffplugin plugins publish|remove|fleet`: which plugins a running fleet serves."""

import json
from pathlib import Path
from typing import Annotated

import typer

from service.cli_queue import AsJson, RedisUrl, ask
from service.cli_settings import read_store_settings
from service.job_queue import JobQueue
from service.jobs import WorkerInfo
from service.plugin_manifest import Published
from service.plugin_publish import Publisher
from service.queue_plugins import FleetPlugins

Base = Annotated[str | None, typer.Option(help="Base model in plugins_store.")]


def publish(
    folder: Annotated[Path, typer.Argument(help="With manifest.json and weights.safetensors.")],
    base: Base = None,
    redis_url: RedisUrl = None,
) -> None:
    """Serve this plugin on the whole fleet, without a restart; what runs ends as it started."""
    manifest = ask(redis_url, lambda queue: _publisher(queue, base).publish(folder))
    print(f"{manifest.name} {manifest.version} is published; see: diffplugin plugins fleet")


def remove(name: str, base: Base = None, redis_url: RedisUrl = None) -> None:
    """Serve this plugin no more on the whole fleet; its files stay under its versions/."""
    ask(redis_url, lambda queue: _publisher(queue, base).remove(name))
    print(f"{name} is removed; see: diffplugin plugins fleet")


def fleet(base: Base = None, redis_url: RedisUrl = None, as_json: AsJson = False) -> None:
    """What was published, and what each worker and selector serves of it."""
    settings = read_store_settings(base=base)

    async def look(queue: JobQueue) -> tuple[Published, list[WorkerInfo]]:
        return await FleetPlugins(queue, settings.base).published(), await queue.workers()

    published, infos = ask(redis_url, look)
    if as_json:
        wanted = {n: m.version if m else None for n, m in published.plugins.items()}
        processes = [info.model_dump(mode="json") for info in infos]
        print(json.dumps({"published": wanted, "processes": processes}, indent=2))
        return
    for name, manifest in sorted(published.plugins.items()):
        print(f"{name:<12} {f'{manifest.version}  {manifest.digest}' if manifest else 'removed'}")
    if not published.plugins:
        print("nothing was published; what lies in plugins_store is served")
    for info in infos:
        print(f"{info.name}  {_state_of(info, published)}")


def _state_of(info: WorkerInfo, published: Published) -> str:
    """Whether a process serves what was published, and if not, why."""
    behind = [
        f"{name}: {info.faults.get(name, f'still {info.versions.get(name)}')}"
        for name, manifest in published.plugins.items()
        if info.versions.get(name) != (manifest.version if manifest else None)
    ]
    return "; ".join(behind) or "up to date"


def _publisher(queue: JobQueue, base: str | None) -> Publisher:
    settings = read_store_settings(base=base)
    return Publisher(queue, settings.plugins_store, settings.base, settings.result_ttl_s)
