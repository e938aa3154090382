"""Every error of the tree is answered over HTTP and gRPC as the one catalogue says."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from redis.asyncio import Redis

from service import errors
from service.api.catalogue import CATALOGUE
from service.api.error_page import ABSTRACT, render
from service.api.grpc_errors import Edge, answers_errors
from service.api.guard import Guard
from service.metrics import ApiMetrics
from service.pb.diffplugin.v1 import edit_pb2 as pb
from service.pb.diffplugin.v1 import edit_pb2_grpc
from tests.grpc_stack import channel_to, details_of, stub_of
from tests.test_api_problems import app_that_raises


class Raising(edit_pb2_grpc.EditServiceServicer):
    def __init__(self, error: Exception) -> None:
        self.error = error
        self.edge = Edge(ApiMetrics(), Guard(Redis(), "test", keys_file=None))

    @answers_errors
    async def ListPlugins(self, request: Any, context: Any) -> Any:
        raise self.error


@asynccontextmanager
async def server_that_raises(error: Exception) -> AsyncIterator[Any]:
    server = grpc.aio.server()
    edit_pb2_grpc.add_EditServiceServicer_to_server(Raising(error), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with channel_to(port) as channel:
        yield stub_of(channel)
    await server.stop(None)


async def error_of(error: Exception) -> grpc.aio.AioRpcError:
    async with server_that_raises(error) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListPlugins(pb.ListPluginsRequest())
    return caught.value


def test_the_catalogue_is_complete() -> None:
    assert set(CATALOGUE) == set(errors.leaves())


@pytest.mark.parametrize("kind", errors.leaves())
async def test_error_has_its_status_on_both_wires(kind: type[errors.DiffPluginError]) -> None:
    async with app_that_raises(kind("send something else")) as client:
        answer = await client.get("/fail")
    error = await error_of(kind("send something else"))
    assert answer.status_code == CATALOGUE[kind].http
    assert error.code() is CATALOGUE[kind].grpc
    assert answer.json()["detail"] == error.details() == "send something else"
    info: Any = details_of(error)["ErrorInfo"]
    assert (info.reason, info.domain) == (answer.json()["code"].upper(), "diffplugin")


async def test_wrong_fields_are_named() -> None:
    error = await error_of(errors.InvalidRequest("no", {"steps": "too many", "seed": "too big"}))
    details: Any = details_of(error)["BadRequest"]
    violations = {item.field: item.description for item in details.field_violations}
    assert violations == {"steps": "too many", "seed": "too big"}


async def test_unavailable_says_when_to_come_back() -> None:
    details: Any = details_of(await error_of(errors.Overloaded("full", retry_after_s=7)))
    assert details["RetryInfo"].retry_delay.seconds == 7
    assert "RetryInfo" not in details_of(await error_of(errors.JobNotFound("no")))


async def test_bug_is_internal_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    error = await error_of(RuntimeError("the secret"))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "the secret" not in (error.details() or "")
    assert "the secret" in caplog.text


def test_the_page_of_errors_is_that_of_the_code() -> None:
    page = (Path(__file__).parent.parent / "docs/errors.md").read_text()
    assert page == render(), "run: python -m service.api.error_page docs/errors.md"
    assert all(f"`{kind.code}`" in page for kind in errors.leaves() if kind not in ABSTRACT)
