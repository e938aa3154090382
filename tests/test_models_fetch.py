"""`diffplugin models fetch` against a server that speaks the hub's protocol, on this machine."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from service import models_fetch
from service.errors import InvalidCheckpoint, Unavailable
from service.models.base_files import find_base
from service.models_fetch import fetch_base

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = bytes(range(256)) * 2000


@dataclass
class Hub:
    """Repositories by id: path -> bytes; weights lie in LFS, as the hub keeps them."""

    repos: dict[str, dict[str, bytes]]
    cut_at: int = 0  # bytes after which the first download of weights breaks off
    told: dict[str, str] = field(default_factory=dict)  # path -> a digest that is not the file's
    ranges: list[str] = field(default_factory=list)
    url: str = ""

    def info(self, repo: str) -> dict[str, object]:
        return {
            "id": repo,
            "sha": COMMIT,
            "siblings": [self._file(path, data) for path, data in self.repos[repo].items()],
        }

    def _file(self, path: str, data: bytes) -> dict[str, object]:
        found: dict[str, object] = {"rfilename": path, "size": len(data), "blobId": git_hash(data)}
        if path.endswith(".safetensors"):
            digest = self.told.get(path, hashlib.sha256(data).hexdigest())
            found["lfs"] = {"size": len(data), "sha256": digest, "pointerSize": 134}
        return found


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Metadata, and files with their digests as ETag, in ranges if they are asked for."""

    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        if found := re.fullmatch(r"/api/models/([^?]+?)(?:/revision/main)?(?:\?.*)?", self.path):
            if found[1] not in self.hub.repos:
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
                return
            body = json.dumps(self.hub.info(found[1])).encode()
            self._send(200, body, {"Content-Type": "application/json"})
            return
        repo, path = self.path[1:].split("?")[0].split("/resolve/")
        path = path.split("/", 1)[1]
        data = self.hub.repos[repo][path]
        is_large = path.endswith(".safetensors")
        etag = hashlib.sha256(data).hexdigest() if is_large else git_hash(data)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range", "")
        first = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        if wanted and with_body:
            self.hub.ranges.append(wanted)
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        is_cut = with_body and is_large and self.hub.cut_at and not wanted
        last = self.hub.cut_at if is_cut else len(data)
        if is_cut:
            self.hub.cut_at = 0
        status = 206 if wanted and with_body else 200
        self._send(status, data[first:last] if with_body else b"", headers, len(data) - first)

    def _send(self, status: int, body: bytes, headers: dict[str, str], size: int = -1) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if size < 0 else size))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    parts = {f"{name}/config.json": b"{}" for name in ("unet", "vae", "text_encoder")}
    weights = {"unet/diffusion_pytorch_model.safetensors": WEIGHTS, "README.md": b"not wanted"}
    clip = {"config.json": b"{}", "model.safetensors": WEIGHTS[:999]}
    scheduler = {"scheduler/scheduler_config.json": b"{}"}
    hub = Hub({"maker/diffusion": parts | weights | scheduler, "maker/clip": clip})
    handler = type("OfThisHub", (Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub.url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(models_fetch, "ENDPOINT", hub.url)
        yield hub
        server.shutdown()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A base that names the hub's repositories."""
    folder = tmp_path / "sd-tiny"
    folder.mkdir()
    sources = {"diffusion": "maker/diffusion", "image_encoder": "maker/clip"}
    (folder / "base.json").write_text(json.dumps(sources))
    return folder


def test_parts_are_downloaded_checked_and_found_in_the_cache(
    hub: Hub, root: Path, tmp_path: Path
) -> None:
    lines = list(fetch_base(root, tmp_path / "cache"))
    assert lines[0] == "maker/diffusion: 5 files, 0.00 GB, every digest is right"
    assert lines[1].startswith("maker/clip: 2 files")
    files = find_base(root)
    assert (files.part("unet") / "diffusion_pytorch_model.safetensors").read_bytes() == WEIGHTS
    assert not (files.diffusion / "README.md").exists()


def test_a_download_that_breaks_off_goes_on_where_it_stopped(
    hub: Hub, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = 100_000  # smaller than the hub's own, of which a part is never kept
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", chunk)
    hub.cut_at = len(WEIGHTS) // 2
    list(fetch_base(root, tmp_path / "cache"))
    assert hub.ranges == [f"bytes={len(WEIGHTS) // 2 // chunk * chunk}-"]
    unet = find_base(root).part("unet")
    assert (unet / "diffusion_pytorch_model.safetensors").read_bytes() == WEIGHTS


def test_a_file_that_is_not_what_the_hub_says_is_named(
    hub: Hub, root: Path, tmp_path: Path
) -> None:
    hub.told["unet/diffusion_pytorch_model.safetensors"] = 64 * "0"
    with pytest.raises(InvalidCheckpoint, match=r"diffusion_pytorch_model.*the hub says 000"):
        list(fetch_base(root, tmp_path / "cache"))


def test_an_unknown_repository_and_no_network_are_told_apart(
    hub: Hub, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del hub.repos["maker/clip"]
    with pytest.raises(Unavailable, match="the hub refuses maker/clip: HTTP 404; is the id right"):
        list(fetch_base(root, tmp_path / "cache"))
    monkeypatch.setattr(models_fetch, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="there is no network here. Fetch it on another machine"):
        list(fetch_base(root, tmp_path / "cache"))
