"""Plugins are loaded and unloaded over HTTP, with an admin key and for the whole fleet."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api_keys import KeyFile
from service.jobs import WorkerInfo
from service.plugin_manifest import WEIGHTS, plugin_folder, read_manifest, weights_digest
from tests.api_stack import Stack, serving


@dataclass
class Admin:
    stack: Stack
    store: Path
    headers: dict[str, str]

    async def post(self, path: str, **arguments: Any) -> httpx.Response:
        url = f"/v2/repository/{path}"
        return await self.stack.client.post(url, headers=self.headers, **arguments)

    async def states(self) -> dict[str, str]:
        answer = await self.post("index")
        return {model["name"]: model["state"] for model in answer.json()}

    async def serve_as_worker(self, **versions: str) -> None:
        info = WorkerInfo(name="fake-worker", role="worker", versions=versions)
        await self.stack.queue.heartbeat(info)


@pytest.fixture
async def admin(redis_url: str, tmp_path: Path) -> AsyncIterator[Admin]:
    file, store = tmp_path / "keys.json", tmp_path / "store"
    key = KeyFile(file).create("admin", ("admin",))
    async with serving(redis_url, store, api_keys_file=file) as stack:
        for name in ("derain", "lowlight"):
            write_weights(plugin_folder(store, "nano", name))
        yield Admin(stack, store, {"X-API-Key": key})


def write_weights(folder: Path, version: str = "1.0.0") -> None:
    """A file that begins as safetensors does, and a manifest that describes it."""
    header = b'{"__metadata__":{"version":"%s"}}' % version.encode()
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
    changes = {"version": version, "digest": weights_digest(folder)}
    manifest = read_manifest(folder, is_named=False).model_copy(update=changes)
    (folder / "manifest.json").write_text(manifest.model_dump_json())


async def test_the_index_says_what_the_workers_serve(admin: Admin) -> None:
    await admin.serve_as_worker(derain="1.0.0")
    assert await admin.states() == {"derain": "READY", "lowlight": "LOADING"}
    ready = await admin.post("index", json={"ready": True})
    assert [model["name"] for model in ready.json()] == ["derain"]


async def test_unload_and_load_reach_the_fleet(admin: Admin) -> None:
    unloaded = await admin.post("models/derain/unload")
    assert unloaded.status_code == 200, unloaded.text
    assert "derain" not in await admin.stack.intake.plugins()
    assert (await admin.states())["derain"] == "UNAVAILABLE"
    again = await admin.post("models/derain/unload")
    assert (again.status_code, again.json()["code"]) == (422, "unknown_plugin")
    loaded = await admin.post("models/derain/load")
    assert (loaded.status_code, loaded.json()["version"]) == (200, "1.0.0"), loaded.text
    assert "derain" in await admin.stack.intake.plugins()


async def test_the_newest_version_is_loaded_or_the_one_that_is_named(admin: Admin) -> None:
    await admin.post("models/derain/load")  # 1.0.0 is kept among the versions
    write_weights(plugin_folder(admin.store, "nano", "derain"), "1.10.0")
    newest = await admin.post("models/derain/load")
    assert newest.json()["version"] == "1.10.0", newest.text
    older = await admin.post("models/derain/load", json={"parameters": {"version": "1.0.0"}})
    assert older.json()["version"] == "1.0.0", older.text
    assert (await admin.stack.intake.plugins())["derain"].version == "1.0.0"


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("models/decloud/load", None, "unknown_plugin"),
        ("models/derain/load", {"parameters": {"version": "9.9.9"}}, "unknown_plugin"),
        ("models/derain/load", {"parameters": {"version": "../1"}}, "invalid_request"),
        ("models/derain/load", {"parameters": {"config": "{}"}}, "invalid_request"),
        ("models/..%2F..%2Fetc/load", None, "route_not_found"),
        ("models/Derain/unload", None, "invalid_request"),
    ],
)
async def test_what_is_not_there_is_refused(admin: Admin, path: str, body: Any, code: str) -> None:
    answer = await admin.post(path, json=body)
    assert answer.json()["code"] == code


async def test_a_plugin_is_a_model_of_the_open_inference_protocol(admin: Admin) -> None:
    client = admin.stack.client
    await admin.serve_as_worker(derain="1.0.0")
    metadata = (await client.get("/v2/models/derain")).json()
    assert (metadata["name"], metadata["versions"]) == ("derain", ["1.0.0"])
    assert metadata["inputs"][0] == {"name": "image", "datatype": "BYTES", "shape": [1]}
    for name, is_ready in (("derain", True), ("lowlight", False)):
        answer = (await client.get(f"/v2/models/{name}/ready")).json()
        assert answer == {"name": name, "ready": is_ready}
    assert (await client.get("/v2/models/decloud")).json()["code"] == "unknown_plugin"


async def test_nobody_administrates_without_an_admin_key(
    admin: Admin, redis_url: str, tmp_path: Path
) -> None:
    editor = KeyFile(admin.stack.settings.api_keys_file or Path()).create("editor", ("edit",))
    for headers, status in (({}, 401), ({"X-API-Key": editor}, 403)):
        answer = await admin.stack.client.post("/v2/repository/index", headers=headers)
        assert answer.status_code == status
    async with serving(redis_url, tmp_path / "open") as stack:
        answer = await stack.client.post("/v2/repository/models/derain/unload")
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
