"""The gRPC server: EditService, health, reflection, KServe; in the event loop that serves HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from service.api.grpc_errors import Edge
from service.api.grpc_inference import InferenceService
from service.api.grpc_service import EditService
from service.api.intake import Intake
from service.api.tls import grpc_tls
from service.errors import QueueUnavailable
from service.pb.diffplugin.v1 import edit_pb2, edit_pb2_grpc
from service.pb.inference import open_inference_pb2, open_inference_pb2_grpc
from service.settings import Settings

SERVICE = edit_pb2.DESCRIPTOR.services_by_name["EditService"].full_name
INFERENCE = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
# Beside the image a message carries its other fields.
MESSAGE_OVERHEAD_BYTES = 2**20
MAX_BYTES_PER_PIXEL = 8  # of a result: four channels of 16 bits


@asynccontextmanager
async def serving_grpc(
    intake: Intake, edge: Edge, settings: Settings, port: int
) -> AsyncIterator[int]:
    """Serve on `port` (0: a free one) and yield it; at the end running calls get their grace."""
    server = grpc.aio.server(options=_limits(settings))
    servicer = EditService(intake, edge, settings.result_ttl_s)
    # The generated code has no types.
    edit_pb2_grpc.add_EditServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(  # type: ignore[no-untyped-call]
        InferenceService(intake, edge), server
    )
    healths = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healths, server)
    reflection.enable_server_reflection(
        (SERVICE, INFERENCE, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    await _set_readiness(healths, intake)
    address, credentials = _address(settings.host, port), grpc_tls(settings)
    if credentials is None:
        bound = server.add_insecure_port(address)
    else:
        bound = server.add_secure_port(address, credentials)
    await server.start()
    following = asyncio.create_task(_follow_readiness(healths, intake, settings.heartbeat_s))
    try:
        yield bound
    finally:
        following.cancel()
        await healths.enter_graceful_shutdown()
        await server.stop(settings.shutdown_grace_s)


def _limits(settings: Settings) -> list[tuple[str, int]]:
    """A larger message is refused before it is read: RESOURCE_EXHAUSTED, by gRPC itself."""
    max_result_bytes = max(
        settings.max_image_bytes, MAX_BYTES_PER_PIXEL * settings.max_image_pixels
    )
    return [
        ("grpc.max_receive_message_length", settings.max_image_bytes + MESSAGE_OVERHEAD_BYTES),
        ("grpc.max_send_message_length", max_result_bytes + MESSAGE_OVERHEAD_BYTES),
        ("grpc.so_reuseport", 0),  # a second server on the same port is a mistake, and fails
    ]


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _follow_readiness(
    healths: health.aio.HealthServicer, intake: Intake, interval_s: float
) -> None:
    """Until it is canceled."""
    while True:
        await asyncio.sleep(interval_s)
        await _set_readiness(healths, intake)


async def _set_readiness(healths: health.aio.HealthServicer, intake: Intake) -> None:
    """SERVING while a worker and a selector are alive, like /readyz."""
    try:
        workers, selectors = await intake.live()
        is_ready = bool(workers and selectors)
    except QueueUnavailable:
        is_ready = False
    statuses = health_pb2.HealthCheckResponse
    for name in ("", SERVICE):
        await healths.set(name, statuses.SERVING if is_ready else statuses.NOT_SERVING)
