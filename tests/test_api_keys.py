"""API keys on every wire: who may do what, how often, and what is kept of a key."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import openai
import pytest
from typer.testing import CliRunner

from service import errors
from service.api.guard import check_exposure
from service.api_keys import KeyFile
from service.cli import app as cli
from service.client import AsyncClient
from service.pb.diffplugin.v1 import edit_pb2 as pb
from service.settings import Settings
from tests.api_stack import listening, photo, serving
from tests.grpc_stack import details_of, serving_both, stub_of

Keys = Callable[..., str]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_a_key_is_found_and_only_its_hash_is_kept(file: Path) -> None:
    keys = KeyFile(file)
    key = keys.create("shop", ("edit",), per_minute=3)
    found = keys.find(key)
    assert found is not None and (found.name, found.per_minute) == ("shop", 3)
    assert keys.find(key[:-1]) is None
    assert keys.find("\udcff") is None
    assert key not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


def test_a_removed_key_is_refused_by_who_has_read_the_file_before(file: Path) -> None:
    running = KeyFile(file)
    key = KeyFile(file).create("shop", ("edit",))
    assert running.find(key) is not None
    KeyFile(file).remove("shop")
    assert running.find(key) is None
    with pytest.raises(errors.InvalidRequest, match="no key 'shop'"):
        running.remove("shop")


def test_names_are_checked_and_unique(file: Path) -> None:
    keys = KeyFile(file)
    keys.create("shop", ("edit",))
    for name in ("shop", "Shop", ""):
        with pytest.raises(errors.InvalidRequest):
            keys.create(name, ("edit",))
    file.write_text("{}")
    with pytest.raises(errors.InvalidRequest, match="no file of API keys"):
        keys.all()


def test_the_command_line_looks_after_keys(file: Path) -> None:
    run = CliRunner().invoke
    made = run(cli, ["keys", "create", "shop", "--per-minute", "9", "--file", str(file)])
    assert KeyFile(file).find(made.stdout.strip()) is not None
    assert "shop  edit  9 a minute" in run(cli, ["keys", "list", "--file", str(file)]).stdout
    run(cli, ["keys", "remove", "shop", "--file", str(file)])
    assert KeyFile(file).all() == ()
    wrong = run(cli, ["keys", "create", "x", "--scope", "root", "--file", str(file)])
    assert isinstance(wrong.exception, errors.InvalidRequest)


def test_a_key_may_come_from_the_environment_if_it_is_long(file: Path) -> None:
    add = ["keys", "create", "compose", "--given", "--file", str(file)]
    for key in ("", "password"):
        refused = CliRunner().invoke(cli, add, env={"DIFFPLUGIN_API_KEY": key})
        assert isinstance(refused.exception, errors.InvalidRequest)
    assert KeyFile(file).all() == ()
    key = "0123456789abcdef" * 4
    said = CliRunner().invoke(cli, add, env={"DIFFPLUGIN_API_KEY": key}).stdout
    found = KeyFile(file).find(key)
    assert found is not None and found.scopes == ("edit",) and key not in said


def headers_of(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_http_asks_for_a_key_with_the_scope(
    redis_url: str, store: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    editor = KeyFile(file).create("editor", ("edit",))
    admin = KeyFile(file).create("admin", ("admin",))
    async with serving(redis_url, store, api_keys_file=file) as stack:
        none = await stack.edit(instruction="derain")
        assert (none.status_code, none.json()["code"]) == (401, "unauthenticated")
        assert none.headers["www-authenticate"] == "Bearer"
        wrong = await stack.edit(instruction="derain", headers=headers_of(editor + "x"))
        assert wrong.status_code == 401
        other = await stack.edit(instruction="derain", headers=headers_of(admin))
        assert (other.status_code, other.json()["code"]) == (403, "forbidden")
        for headers in (headers_of(editor), {"X-API-Key": editor}):
            assert (await stack.edit(instruction="derain", headers=headers)).status_code == 200
        for path in ("/livez", "/readyz", "/v2/health/ready", "/metrics", "/openapi.json", "/"):
            assert (await stack.client.get(path)).status_code == 200
    assert editor not in caplog.text and admin not in caplog.text


async def test_a_refused_body_is_not_read(redis_url: str, store: Path, file: Path) -> None:
    KeyFile(file).create("editor", ("edit",))
    num_sent = 0

    async def chunks() -> Any:
        nonlocal num_sent
        for _ in range(100):
            num_sent += 1
            yield bytes(2**16)

    async with serving(redis_url, store, api_keys_file=file) as stack:
        answer = await stack.client.post("/v1/edit", content=chunks())
    assert (answer.status_code, num_sent) == (401, 0)


async def test_grpc_asks_for_a_key_with_the_scope(redis_url: str, store: Path, file: Path) -> None:
    editor = KeyFile(file).create("editor", ("edit",))
    admin = KeyFile(file).create("admin", ("admin",))
    request = pb.EditRequest(image=photo(), instruction="derain")
    async with serving_both(redis_url, store, api_keys_file=file) as (_, channel):
        stub = stub_of(channel)
        for metadata, code, reason in (
            (None, grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
            ((("x-api-key", "wrong"),), grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
            ((("x-api-key", admin),), grpc.StatusCode.PERMISSION_DENIED, "FORBIDDEN"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Edit(request, metadata=metadata)
            info: Any = details_of(caught.value)["ErrorInfo"]
            assert (caught.value.code(), info.reason) == (code, reason)
        answer = await stub.Edit(request, metadata=(("authorization", f"Bearer {editor}"),))
    assert answer.image


async def test_clients_send_their_key(redis_url: str, store: Path, file: Path) -> None:
    key = KeyFile(file).create("editor", ("edit",))
    async with (
        serving(redis_url, store, api_keys_file=file) as stack,
        listening(stack.app) as url,
        openai.DefaultAsyncHttpxClient(trust_env=False) as http,
    ):
        async with AsyncClient(url, api_key=key) as client:
            assert (await client.edit(photo(), "derain")).image
        async with AsyncClient(url) as client:
            with pytest.raises(errors.Unauthenticated):
                await client.edit(photo(), "derain")
        theirs = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, http_client=http)
        assert (await theirs.images.edit(image=("a.png", photo()), prompt="derain")).data
        stranger = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", http_client=http)
        with pytest.raises(openai.AuthenticationError) as caught:
            await stranger.images.edit(image=("a.png", photo()), prompt="derain")
    assert caught.value.code == "unauthenticated"


async def test_a_key_has_its_own_rate_over_both_wires(
    redis_url: str, store: Path, file: Path
) -> None:
    slow = KeyFile(file).create("slow", ("edit",), per_minute=2)
    fast = KeyFile(file).create("fast", ("edit",))
    request = pb.EditRequest(image=photo(), instruction="derain")
    async with serving_both(redis_url, store, api_keys_file=file) as (stack, channel):
        stub = stub_of(channel)
        job = (await stack.edit(instruction="derain", headers=headers_of(slow))).headers["x-job-id"]
        await stub.Edit(request, metadata=(("x-api-key", slow),))
        refused = await stack.edit(instruction="derain", headers=headers_of(slow))
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Edit(request, metadata=(("x-api-key", slow),))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "RetryInfo" in details_of(caught.value)
        # Looking at a job is no work.
        looked = await stack.client.get(f"/v1/edits/{job}", headers=headers_of(slow))
        assert looked.status_code == 200
        answers: list[httpx.Response] = [
            await stack.edit(instruction="derain", headers=headers_of(fast)) for _ in range(3)
        ]
    assert {answer.status_code for answer in answers} == {200}


@pytest.mark.parametrize(
    ("host", "is_refused"),
    [
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("::1", False),
        ("localhost", False),
        ("0.0.0.0", True),
        ("::", True),
        ("10.0.0.7", True),
        ("api.internal", True),
    ],
)
def test_strangers_are_let_in_only_if_told_so(host: str, is_refused: bool, file: Path) -> None:
    settings = Settings(host=host)
    if is_refused:
        with pytest.raises(errors.InvalidRequest, match="DIFFPLUGIN_API_KEYS_FILE"):
            check_exposure(settings)
    else:
        check_exposure(settings)
    check_exposure(Settings(host=host, allow_anonymous=True))
    with pytest.raises(errors.InvalidRequest, match="has no key"):
        check_exposure(Settings(host=host, api_keys_file=file))
    KeyFile(file).create("editor", ("edit",))
    check_exposure(Settings(host=host, api_keys_file=file))


def test_settings_do_not_show_secrets() -> None:
    settings = Settings(redis_url="redis://:hunter2@host", api_key="dp_hunter2")
    assert "hunter2" not in repr(settings)
    assert os.environ.get("DIFFPLUGIN_API_KEY") is None
