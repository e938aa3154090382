"""GRPCInferenceService: health and metadata of KServe's Open Inference Protocol, over gRPC."""

from google.protobuf import json_format
from grpc.aio import ServicerContext

from service import __version__
from service.api.grpc_errors import Edge, answers_errors
from service.api.intake import Intake
from service.api.kserve import is_model_ready, model_metadata
from service.api.operations import readiness_of
from service.api.schemas import ServerMetadata
from service.pb.inference import open_inference_pb2 as pb


class InferenceService:
    """The same answers as /v2/..., for everybody: probes have no key."""

    def __init__(self, intake: Intake, edge: Edge) -> None:
        self._intake = intake
        self.edge = edge

    @answers_errors
    async def ServerLive(
        self, request: pb.ServerLiveRequest, context: ServicerContext
    ) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    @answers_errors
    async def ServerReady(
        self, request: pb.ServerReadyRequest, context: ServicerContext
    ) -> pb.ServerReadyResponse:
        readiness = await readiness_of(self._intake)
        return pb.ServerReadyResponse(ready=readiness.status == "ready")

    @answers_errors
    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: ServicerContext
    ) -> pb.ModelReadyResponse:
        is_ready = await is_model_ready(self._intake, request.name, request.version)
        return pb.ModelReadyResponse(ready=is_ready)

    @answers_errors
    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: ServicerContext
    ) -> pb.ServerMetadataResponse:
        metadata = ServerMetadata(version=__version__)
        return pb.ServerMetadataResponse(name=metadata.name, version=metadata.version)

    @answers_errors
    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: ServicerContext
    ) -> pb.ModelMetadataResponse:
        metadata = await model_metadata(self._intake, request.name, request.version)
        answer = pb.ModelMetadataResponse()
        json_format.ParseDict(metadata.model_dump(mode="json"), answer)
        return answer
