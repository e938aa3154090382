"""Plugin admin in the shape of Triton's repository extension; needs a key with the scope admin.

A load or unload is for the whole fleet: the word goes into Redis, and every process follows.
"""

import asyncio
from pathlib import Path as FilePath
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request
from pydantic import Field

from service.api.intake import Intake
from service.errors import Forbidden, UnknownPlugin
from service.jobs import Record, WorkerInfo
from service.plugin_manifest import PluginManifest, installed_plugins, plugin_folder
from service.plugin_publish import Publisher
from service.queue_plugins import FleetPlugins
from service.settings import Settings

router = APIRouter(prefix="/v2/repository")

Name = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_-]{0,39}$", description="Name of a plugin.")]


class IndexRequest(Record):
    ready: bool = Field(False, description="List only what every worker serves.")


class LoadParameters(Record):
    version: str | None = Field(
        None, pattern=r"^\d+\.\d+\.\d+$", description="One that is in the store; else the newest."
    )


class LoadRequest(Record):
    parameters: LoadParameters = LoadParameters()


class RepositoryModel(Record):
    """A plugin of the store, and how far the workers are with it."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str = ""


@router.post("/index")
async def index(request: Request, body: IndexRequest | None = None) -> list[RepositoryModel]:
    """Every plugin: served by all workers (READY), by some (LOADING), or unloaded."""
    intake: Intake = request.app.state.intake
    settings: Settings = request.app.state.settings
    served, (workers, _) = await intake.plugins(), await intake.live()
    published = await FleetPlugins(intake.queue, settings.base).published()
    models = [_model_of(manifest, workers) for manifest in served.values()]
    models += [
        RepositoryModel(name=name, version="", state="UNAVAILABLE", reason="unloaded")
        for name, manifest in published.plugins.items()
        if manifest is None
    ]
    only_ready = body is not None and body.ready
    return [model for model in models if model.state == "READY" or not only_ready]


@router.post("/models/{name}/load")
async def load(request: Request, name: Name, body: LoadRequest | None = None) -> RepositoryModel:
    """Serve a plugin of the store on the whole fleet."""
    settings: Settings = request.app.state.settings
    version = body.parameters.version if body else None
    folder = await asyncio.to_thread(_folder_of, settings, name, version)
    try:
        manifest = await _publisher(request).publish(folder)
    except OSError as error:
        raise _read_only(error) from error
    workers, _ = await request.app.state.intake.live()
    return _model_of(manifest, workers)


@router.post("/models/{name}/unload")
async def unload(request: Request, name: Name) -> RepositoryModel:
    """Serve it no more on the whole fleet; its files stay, and jobs that run go on."""
    try:
        await _publisher(request).remove(name)
    except OSError as error:
        raise _read_only(error) from error
    return RepositoryModel(name=name, version="", state="UNAVAILABLE", reason="unloaded")


def _publisher(request: Request) -> Publisher:
    settings: Settings = request.app.state.settings
    queue = request.app.state.intake.queue
    return Publisher(queue, settings.plugins_store, settings.base, settings.result_ttl_s)


def _folder_of(settings: Settings, name: str, version: str | None) -> FilePath:
    """Where the store has that version, or the newest; UnknownPlugin if it has none."""
    default = plugin_folder(settings.plugins_store, settings.base, name)
    folders = {path.name: path for path in default.glob("versions/[0-9]*") if path.is_dir()}
    installed = installed_plugins(settings.plugins_store, settings.base).get(name)
    if installed is not None:
        folders[installed.version] = default
    if not folders or (version is not None and version not in folders):
        raise UnknownPlugin(
            f"the store has no plugin {name!r}{f' of version {version}' if version else ''}; "
            f"it has {', '.join(sorted(folders)) or 'none of that name'}"
        )
    return folders[version or max(folders, key=_order)]


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _model_of(manifest: PluginManifest, workers: list[WorkerInfo]) -> RepositoryModel:
    name, version = manifest.name, manifest.version
    behind = [info for info in workers if info.versions.get(name) != version]
    faults = [info.faults[name] for info in behind if name in info.faults]
    if workers and not behind:
        return RepositoryModel(name=name, version=version, state="READY")
    state: Literal["LOADING", "UNAVAILABLE"] = "UNAVAILABLE" if faults or not workers else "LOADING"
    reason = "; ".join(faults) or f"{len(behind)} of {len(workers)} workers do not serve it yet"
    return RepositoryModel(name=name, version=version, state=state, reason=reason)


def _read_only(error: OSError) -> Forbidden:
    return Forbidden(
        f"the api cannot write to the plugins store ({error.strerror}); "
        "run `diffplugin plugins publish` where it can be written"
    )
