"""A client that knows nothing but the server's address, as grpcurl does: by reflection alone."""

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.api_stack import photo
from tests.grpc_stack import serving_on

SERVICE = "diffplugin.v1.EditService"


class Stranger:
    """Calls methods by their name with JSON, as far as the server describes them."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._database = ProtoReflectionDescriptorDatabase(channel)
        self._pool = DescriptorPool(self._database)

    def services(self) -> list[str]:
        return list(self._database.get_services())

    def call(self, name: str, fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
        method = self._pool.FindServiceByName(SERVICE).FindMethodByName(name)
        request = message_factory.GetMessageClass(method.input_type)()
        answer_type = message_factory.GetMessageClass(method.output_type)
        json_format.ParseDict(fields, request)
        kind = "unary_stream" if method.server_streaming else "unary_unary"
        send = getattr(self._channel, kind)(
            f"/{SERVICE}/{name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer_type.FromString,
        )
        answers = send(request, timeout=60)
        for answer in answers if method.server_streaming else [answers]:
            yield json_format.MessageToDict(answer, preserving_proto_field_name=True)


async def test_everything_can_be_called_by_reflection_alone(redis_url: str, tmp_path: Path) -> None:
    async with serving_on(redis_url, tmp_path) as address:

        def use() -> None:
            options = [("grpc.enable_http_proxy", 0)]
            with grpc.insecure_channel(address, options) as plain:
                stranger = Stranger(plain)
                assert SERVICE in stranger.services()
                image = {"image": b64(photo()), "instruction": "derain", "seed": 3, "previews": 1}
                [edited] = stranger.call("Edit", image)
                assert edited["media_type"] == "image/png" and edited["seed"] == "3"
                updates = list(stranger.call("EditStream", {"edit": image}))
                kinds = [next(iter(update)) for update in updates]
                assert kinds[0] == "id" and kinds[-1] == "result" and "preview" in kinds
                assert updates[-1]["result"]["image"] == edited["image"]
                [listed] = stranger.call("ListPlugins", {})
                assert [plugin["name"] for plugin in listed["plugins"]] == ["derain", "lowlight"]
                [job] = stranger.call("SubmitEdit", {"edit": image})
                events = list(stranger.call("WatchEdit", {"id": job["job"]["id"]}))
                assert events[-1]["status"] == "JOB_STATUS_SUCCEEDED"

        await asyncio.to_thread(use)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
