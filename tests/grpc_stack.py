"""The stack of api_stack, with its gRPC server on a free port and a channel to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from service.api.grpc_errors import Edge
from service.api.grpc_server import serving_grpc
from service.pb.diffplugin.v1 import edit_pb2_grpc
from tests.api_stack import Stack, serving


@asynccontextmanager
async def serving_both(
    redis_url: str, store: Path, **settings: Any
) -> AsyncIterator[tuple[Stack, grpc.aio.Channel]]:
    async with serving(redis_url, store, **settings) as stack:
        edge = Edge(stack.app.state.metrics, stack.app.state.guard, stack.app.state.tracer)
        async with (
            serving_grpc(stack.intake, edge, stack.settings, port=0) as port,
            channel_to(port) as channel,
        ):
            yield stack, channel


@asynccontextmanager
async def serving_on(redis_url: str, store: Path, **settings: Any) -> AsyncIterator[str]:
    """The address of the stack's gRPC server."""
    async with serving(redis_url, store, **settings) as stack:
        edge = Edge(stack.app.state.metrics, stack.app.state.guard)
        async with serving_grpc(stack.intake, edge, stack.settings, port=0) as port:
            yield f"127.0.0.1:{port}"


def channel_to(port: int) -> grpc.aio.Channel:
    # A proxy of the environment must not stand between two ends of the loopback.
    options = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", 2**26)]
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options)


def stub_of(channel: grpc.aio.Channel) -> Any:
    return edit_pb2_grpc.EditServiceStub(channel)


def details_of(error: grpc.aio.AioRpcError) -> dict[str, Message]:
    """The google.rpc details of an error by the name of their message."""
    status = rpc_status.from_call(error)
    found: dict[str, Message] = {}
    for packed in status.details if status else ():
        message = getattr(error_details_pb2, packed.TypeName().rsplit(".", 1)[-1])()
        assert packed.Unpack(message)
        found[message.DESCRIPTOR.name] = message
    return found
