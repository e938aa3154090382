"""Models of KServe's Open Inference Protocol v2: a plugin's metadata and readiness.

Inference itself is POST /v1/edit: tensors of the protocol would be a photo without its file.
"""

from typing import Annotated

from fastapi import APIRouter, Path, Request

from service.api.intake import Intake
from service.api.schemas import ModelMetadata, ModelReadiness, TensorMetadata
from service.errors import UnknownPlugin
from service.plugin_manifest import PluginManifest

router = APIRouter()

Name = Annotated[str, Path(description="Name of a plugin.")]
FILE = TensorMetadata(name="image", datatype="BYTES", shape=(1,))
TEXT = TensorMetadata(name="instruction", datatype="BYTES", shape=(1,))


@router.get("/v2/models/{name}")
async def v2_model(request: Request, name: Name) -> ModelMetadata:
    """A plugin as a model: its version, and that an image file goes in and out."""
    return await model_metadata(request.app.state.intake, name)


@router.get("/v2/models/{name}/ready")
async def v2_model_ready(request: Request, name: Name) -> ModelReadiness:
    """Whether every live worker serves the plugin, in the version that is to be served."""
    return ModelReadiness(name=name, ready=await is_model_ready(request.app.state.intake, name))


async def model_metadata(intake: Intake, name: str, version: str = "") -> ModelMetadata:
    """UnknownPlugin if there is none of that name and, if one is given, version."""
    manifest = await _manifest(intake, name, version)
    return ModelMetadata(
        name=name,
        versions=(manifest.version,),
        platform="diffplugin",
        inputs=(FILE, TEXT),
        outputs=(FILE,),
    )


async def is_model_ready(intake: Intake, name: str, version: str = "") -> bool:
    manifest, (workers, _) = await _manifest(intake, name, version), await intake.live()
    served = [info.versions.get(name) == manifest.version for info in workers]
    return bool(served) and all(served)


async def _manifest(intake: Intake, name: str, version: str) -> PluginManifest:
    plugins = await intake.plugins()
    if name not in plugins:
        raise UnknownPlugin(f"no plugin is called {name!r}; there are: {', '.join(plugins)}")
    if version not in ("", plugins[name].version):
        raise UnknownPlugin(f"plugin {name!r} is served in version {plugins[name].version}")
    return plugins[name]
