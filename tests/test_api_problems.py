"""Every error has one status, and every error answer is problem+json with the same shape."""

import httpx
import pytest
from fastapi import FastAPI

from service import errors
from service.api.catalogue import CATALOGUE
from service.api.middleware import Gate
from service.api.problems import MEDIA_TYPE, add_problem_handlers
from service.metrics import ApiMetrics
from service.tracing import Tracer


def app_that_raises(error: Exception) -> httpx.AsyncClient:
    app = FastAPI()
    app.add_middleware(Gate, metrics=ApiMetrics(), tracer=Tracer(), max_body_bytes=1000)
    add_problem_handlers(app)

    @app.get("/fail")
    async def fail() -> None:
        raise error

    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.mark.parametrize("kind", errors.leaves())
def test_every_error_has_a_status(kind: type[errors.DiffPluginError]) -> None:
    assert 400 <= CATALOGUE[kind].http < 600
    assert (CATALOGUE[kind].http < 500) == (
        issubclass(
            kind, errors.ClientError | errors.Overloaded | errors.RateLimited | errors.JobCanceled
        )
    )


def test_every_error_has_its_own_code() -> None:
    codes = [kind.code for kind in errors.leaves()]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("kind", errors.leaves())
async def test_error_becomes_a_problem(kind: type[errors.DiffPluginError]) -> None:
    async with app_that_raises(kind("send something else")) as client:
        answer = await client.get("/fail", headers={"X-Request-Id": "abc-1"})
    assert answer.status_code == CATALOGUE[kind].http
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.json() == {
        "type": f"urn:diffplugin:problem:{kind.code}",
        "title": kind.title,
        "status": CATALOGUE[kind].http,
        "detail": "send something else",
        "instance": "/fail",
        "code": kind.code,
        "request_id": "abc-1",
    }


async def test_unavailable_says_when_to_come_back() -> None:
    async with app_that_raises(errors.Overloaded("full", retry_after_s=7)) as client:
        assert (await client.get("/fail")).headers["retry-after"] == "7"


async def test_bug_is_a_problem_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    async with app_that_raises(RuntimeError("the secret")) as client:
        answer = await client.get("/fail")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "the secret" not in answer.text
    assert answer.json()["request_id"] in answer.json()["detail"]
    assert "the secret" in caplog.text


async def test_unknown_route_and_wrong_method_are_problems() -> None:
    async with app_that_raises(RuntimeError()) as client:
        lost, wrong = await client.get("/nowhere"), await client.delete("/fail")
    assert (lost.status_code, lost.json()["code"]) == (404, "route_not_found")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "GET"


async def test_unusable_request_id_is_replaced() -> None:
    async with app_that_raises(RuntimeError()) as client:
        answer = await client.get("/nowhere", headers={"X-Request-Id": "a b\tc"})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] != "a b\tc"
