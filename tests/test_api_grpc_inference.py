"""The health and metadata calls of the Open Inference Protocol over gRPC, as KServe makes them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from service import __version__
from service.api_keys import KeyFile
from service.jobs import WorkerInfo
from service.pb.inference import open_inference_pb2 as pb
from service.pb.inference import open_inference_pb2_grpc
from tests.api_stack import Stack
from tests.grpc_stack import details_of, serving_both


@pytest.fixture
async def served(redis_url: str, tmp_path: Path) -> AsyncIterator[tuple[Stack, Any]]:
    """With API keys, of which probes have none."""
    file = tmp_path / "keys.json"
    KeyFile(file).create("editor", ("edit",))
    store = tmp_path / "store"
    async with serving_both(redis_url, store, api_keys_file=file) as (stack, channel):
        yield stack, open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)


async def test_server_calls_tell_what_is_live_ready_and_served(served: tuple[Stack, Any]) -> None:
    stack, stub = served
    assert (await stub.ServerLive(pb.ServerLiveRequest())).live
    metadata = await stub.ServerMetadata(pb.ServerMetadataRequest())
    assert (metadata.name, metadata.version) == ("diffplugin-serve", __version__)
    assert (await stub.ServerReady(pb.ServerReadyRequest())).ready
    for info in await stack.queue.workers():
        await stack.queue.goodbye(info.name)
    ready = (await stack.client.get("/v2/health/ready")).json()["ready"]
    assert (await stub.ServerReady(pb.ServerReadyRequest())).ready is ready is False


async def test_a_plugin_is_a_model(served: tuple[Stack, Any]) -> None:
    stack, stub = served
    for info in await stack.queue.workers():
        if info.role == "worker":
            await stack.queue.goodbye(info.name)
    worker = WorkerInfo(name="one", role="worker", plugins=("derain",))
    await stack.queue.heartbeat(worker.model_copy(update={"versions": {"derain": "1.0.0"}}))
    for version in ("", "1.0.0"):
        metadata = await stub.ModelMetadata(pb.ModelMetadataRequest(name="derain", version=version))
        assert (metadata.name, list(metadata.versions)) == ("derain", ["1.0.0"])
        [file, text], [result] = metadata.inputs, metadata.outputs
        assert (file.name, file.datatype, list(file.shape)) == ("image", "BYTES", [1])
        assert text.name == "instruction" and result == file
        assert (await stub.ModelReady(pb.ModelReadyRequest(name="derain", version=version))).ready
    assert not (await stub.ModelReady(pb.ModelReadyRequest(name="lowlight"))).ready


@pytest.mark.parametrize("model", [{"name": "decloud"}, {"name": "derain", "version": "9.0.0"}])
async def test_a_model_that_is_not_there_is_named(
    served: tuple[Stack, Any], model: dict[str, str]
) -> None:
    _, stub = served
    for call, request in (
        (stub.ModelReady, pb.ModelReadyRequest(**model)),
        (stub.ModelMetadata, pb.ModelMetadataRequest(**model)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(request)
        assert details_of(caught.value)["ErrorInfo"].reason == "UNKNOWN_PLUGIN"
