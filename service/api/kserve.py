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
    manifest = await _manifest(request, name)
    return ModelMetadata(
        name=name,
        versions=(manifest.version,),
        platform="diffplugin",
        inputs=(FILE, TEXT),
        outputs=(FILE,),
    )


@router.get("/v2/models/{name}/ready")
async def v2_model_ready(request: Request, name: Name) -> ModelReadiness:
    """Whether every live worker serves the plugin, in the version that is to be served."""
    intake: Intake = request.app.state.intake
    manifest, (workers, _) = await _manifest(request, name), await intake.live()
    served = [info.versions.get(name) == manifest.version for info in workers]
    return ModelReadiness(name=name, ready=bool(served) and all(served))


async def _manifest(request: Request, name: str) -> PluginManifest:
    plugins = await request.app.state.intake.plugins()
    if name not in plugins:
        raise UnknownPlugin(f"no plugin is called {name!r}; there are: {', '.join(plugins)}")
    manifest: PluginManifest = plugins[name]
    return manifest
