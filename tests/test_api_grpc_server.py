"""The gRPC server around the calls: limits, health, reflection, and code that matches its proto."""

import asyncio
import filecmp
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service.api.grpc_server import SERVICE
from service.pb.diffplugin.v1 import edit_pb2 as pb
from tests.api_stack import photo, running_role
from tests.grpc_stack import serving_both, stub_of

ROOT = Path(__file__).parent.parent


async def test_message_beyond_the_limit_is_refused(redis_url: str, tmp_path: Path) -> None:
    async with serving_both(redis_url, tmp_path, max_image_bytes=1000) as (_, channel):
        for num_bytes, code in (
            (2000, grpc.StatusCode.INVALID_ARGUMENT),  # image_too_large
            (2**21, grpc.StatusCode.RESOURCE_EXHAUSTED),  # never read
        ):
            request = pb.EditRequest(image=bytes(num_bytes), instruction="derain")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub_of(channel).Edit(request)
            assert caught.value.code() is code


async def test_image_beyond_the_default_limit_of_grpc_goes_both_ways(
    redis_url: str, tmp_path: Path
) -> None:
    async with serving_both(redis_url, tmp_path) as (_, channel):
        image = photo(1300, 1300)
        assert len(image) > 4 * 2**20
        # Nothing fits the instruction, so the same bytes come back.
        answer = await stub_of(channel).Edit(pb.EditRequest(image=image, instruction="sing"))
    assert answer.image == image


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_health_follows_the_workers(redis_url: str, tmp_path: Path, service: str) -> None:
    statuses = health_pb2.HealthCheckResponse
    async with serving_both(redis_url, tmp_path, roles=("selector",), heartbeat_s=0.1) as (
        stack,
        channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=service))
        async with asyncio.timeout(5):
            assert (await watch.read()).status == statuses.NOT_SERVING
            async with running_role(stack.queue, "selector"), running_role(stack.queue, "worker"):
                assert (await watch.read()).status == statuses.SERVING
            assert (await watch.read()).status == statuses.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_services_and_has_the_proto(
    redis_url: str, tmp_path: Path
) -> None:
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
    ]
    async with serving_both(redis_url, tmp_path) as (_, channel):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        listed, file = [answer async for answer in stub.ServerReflectionInfo(iter(requests))]
    names = {service.name for service in listed.list_services_response.service}
    assert names >= {"diffplugin.v1.EditService", "grpc.health.v1.Health"}
    [proto] = file.file_descriptor_response.file_descriptor_proto
    assert proto == pb.DESCRIPTOR.serialized_pb


def test_generated_code_is_that_of_the_proto(tmp_path: Path) -> None:
    subprocess.run(
        ["scripts/generate_protos", sys.executable, tmp_path], cwd=ROOT, check=True, timeout=60
    )
    generated = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    committed = {
        path.relative_to(ROOT)
        for path in (ROOT / "service/pb").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert generated == committed
    _, differing, missing = filecmp.cmpfiles(
        tmp_path, ROOT, [str(path) for path in generated], shallow=False
    )
    assert not differing + missing, "run `make protos`"


def test_proto_keeps_the_naming_rules_of_buf() -> None:
    [service] = pb.DESCRIPTOR.services_by_name.values()
    for method in service.methods:
        assert method.input_type.name == f"{method.name}Request"
        assert method.output_type.name == f"{method.name}Response"
    for name, enum in pb.DESCRIPTOR.enum_types_by_name.items():
        prefix = "".join(f"_{letter}" if letter.isupper() else letter for letter in name)
        prefix = prefix.upper().lstrip("_")
        assert all(value.name.startswith(f"{prefix}_") for value in enum.values)
        assert enum.values_by_number[0].name == f"{prefix}_UNSPECIFIED"
