"""Webhooks to a real receiver: filtered, signed, retried, and never to where they may not go."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response

from service.api.webhook_target import is_public, resolve
from service.errors import InvalidRequest
from tests.api_stack import Stack, listening, serving

SECRET = "whsec_" + base64.b64encode(b"a secret of some bytes").decode()


@dataclass
class Receiver:
    """Answers with the statuses given, then 204; keeps what came."""

    statuses: list[int] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    url: str = ""

    async def take(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        self.bodies.append(await request.body())
        return Response(status_code=self.statuses.pop(0) if self.statuses else 204)

    @property
    def types(self) -> list[str]:
        return [json.loads(body)["type"] for body in self.bodies]

    async def until(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.bodies) < count:
                await asyncio.sleep(0.01)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver, app = Receiver(), FastAPI()
    app.add_api_route("/hook", receiver.take, methods=["POST"])
    async with listening(app) as url:
        receiver.url = f"{url}/hook"
        yield receiver


@asynccontextmanager
async def sending(redis_url: str, store: Path, **settings: Any) -> AsyncIterator[Stack]:
    defaults = {"webhook_secret": SECRET, "webhook_allow_private": True, "webhook_retry_s": 0.01}
    async with serving(redis_url, store, **{**defaults, **settings}) as stack:
        yield stack


def is_signed(headers: dict[str, str], body: bytes) -> bool:
    """What a receiver checks; docs/api.md has the same."""
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
    is_fresh = abs(time.time() - int(headers["webhook-timestamp"])) < 300
    return is_fresh and headers["webhook-signature"] == f"v1,{expected}"


async def test_a_job_tells_its_start_and_its_end(
    redis_url: str, tmp_path: Path, receiver: Receiver
) -> None:
    async with sending(redis_url, tmp_path) as stack:
        answer = await stack.edit(instruction="derain", webhook=receiver.url)
        assert answer.status_code == 200, answer.text
        await receiver.until(2)
    assert receiver.types == ["edit.start", "edit.completed"]
    ended = json.loads(receiver.bodies[1])["data"]
    job_id = answer.headers["x-job-id"]
    assert (ended["id"], ended["status"]) == (job_id, "succeeded")
    assert ended["result"] == f"/v1/edits/{job_id}/result"
    for headers, body in zip(receiver.headers, receiver.bodies, strict=True):
        assert is_signed(headers, body)
        assert not is_signed(headers, body + b" ")
    assert len({headers["webhook-id"] for headers in receiver.headers}) == 2


async def test_the_filter_and_errors_are_those_of_the_job(
    redis_url: str, tmp_path: Path, receiver: Receiver
) -> None:
    async with sending(redis_url, tmp_path) as stack:
        fields = {"instruction": "derain break", "webhook": receiver.url}
        await stack.edit(**fields, webhook_events_filter="completed")
        await receiver.until(1)
        assert receiver.types == ["edit.completed"]
        assert json.loads(receiver.bodies[0])["data"]["error"]["code"] == "edit_failed"
        assert json.loads(receiver.bodies[0])["data"]["result"] is None


async def test_what_is_not_taken_is_sent_again_under_its_id(
    redis_url: str, tmp_path: Path, receiver: Receiver
) -> None:
    receiver.statuses = [500, 302, 429]
    async with sending(redis_url, tmp_path) as stack:
        fields = {"instruction": "derain", "webhook": receiver.url}
        await stack.edit(**fields, webhook_events_filter="completed")
        await receiver.until(4)
        stream = stack.queue.key("webhooks")
        async with asyncio.timeout(20):
            while await stack.queue.redis.xlen(stream):
                await asyncio.sleep(0.01)
    assert len({headers["webhook-id"] for headers in receiver.headers}) == 1
    assert len(receiver.bodies) == 4


async def test_a_receiver_that_wants_no_more_is_left_alone_and_others_get_theirs(
    redis_url: str, tmp_path: Path, receiver: Receiver
) -> None:
    receiver.statuses = [410]
    async with sending(redis_url, tmp_path, webhook_attempts=2) as stack:
        fields = {"instruction": "derain", "webhook_events_filter": "completed"}
        await stack.edit(**fields, webhook="http://127.0.0.1:9/nobody")
        for _ in range(2):
            await stack.edit(**fields, webhook=receiver.url)
        await receiver.until(2)


async def test_another_process_goes_on_where_one_stopped(
    redis_url: str, tmp_path: Path, receiver: Receiver
) -> None:
    receiver.statuses = [500] * 1000
    shared: dict[str, Any] = {"webhook_attempts": 1000, "webhook_retry_s": 0.05}
    async with sending(redis_url, tmp_path / "a", **shared) as stack:
        prefix = stack.settings.key_prefix
        await stack.edit(instruction="derain", webhook=receiver.url)
        await receiver.until(1)
    receiver.statuses.clear()
    num_before = len(receiver.bodies)
    async with sending(redis_url, tmp_path / "b", key_prefix=prefix, **shared) as stack:
        assert await stack.queue.redis.xlen(stack.queue.key("webhooks")) == 1
        await receiver.until(num_before + 2)
    assert receiver.types[num_before:] == ["edit.start", "edit.completed"]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1/x", "private address"),
        ("http://localhost/x", "private address"),
        ("http://[::1]/x", "private address"),
        ("http://[::ffff:10.0.0.1]/x", "private address"),
        ("http://169.254.169.254/latest", "private address"),
        ("http://0/x", "private address"),
        ("http://2130706433/", "private address"),
        ("ftp://example.org/", "http or https"),
        ("file:///etc/passwd", "http or https"),
        ("https://user:word@example.org/", "user and password"),
        ("nonsense", "http or https"),
        ("http://" + "x" * 3000, "2048"),
        ("http://\x00/", "no URL"),
    ],
)
async def test_a_url_that_may_not_be_called_is_refused(url: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        await resolve(url, allow_private=False)
    assert list(caught.value.fields) == ["webhook"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.216.34", True),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("2606:2800:220:1::1", True),
        ("fe80::1", False),
        ("fd00::1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_public_addresses(address: str, expected: bool) -> None:
    assert is_public(ip_address(address)) is expected


async def test_webhooks_are_refused_where_they_are_off_or_wrong(
    redis_url: str, tmp_path: Path
) -> None:
    async with serving(redis_url, tmp_path / "a") as stack:
        answer = await stack.edit(instruction="derain", webhook="https://example.org/")
        assert "DIFFPLUGIN_WEBHOOK_SECRET" in answer.json()["detail"]
    async with sending(redis_url, tmp_path / "b", webhook_allow_private=False) as stack:
        answer = await stack.edit(instruction="derain", webhook="http://127.0.0.1/")
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        wrong = await stack.edit(instruction="derain", webhook_events_filter="end")
        assert "webhook_events_filter" in wrong.json()["detail"]
        assert not await stack.queue.redis.xlen(stack.queue.key("webhooks"))
