"""The examples of docs/api.md run as they stand, against a running service, but for its address."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from service.api.grpc_errors import Edge
from service.api.grpc_server import serving_grpc
from tests.api_stack import listening, photo, serving

ROOT = Path(__file__).parent.parent
EXAMPLES = re.findall(
    r"^```(bash|python)\n(.*?)^```", (ROOT / "docs/api.md").read_text(), re.MULTILINE | re.DOTALL
)


@dataclass
class Served:
    http: str
    grpc: str


@pytest.fixture
async def served(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Served]:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "rainy.jpg").write_bytes(photo())
    Image.new("L", (48, 32), 255).save(folder / "mask.png")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    async with serving(redis_url, tmp_path / "store") as stack:
        edge = Edge(stack.app.state.metrics, stack.app.state.guard)
        async with (
            listening(stack.app) as url,
            serving_grpc(stack.intake, edge, stack.settings, port=0) as port,
        ):
            yield Served(url, f"127.0.0.1:{port}")


def test_every_kind_of_example_is_there() -> None:
    text = "".join(code for _, code in EXAMPLES)
    for name in ("curl", "OpenAI(", "Client(", "EditServiceStub", "hmac.digest", "diffplugin keys"):
        assert name in text
    assert len(EXAMPLES) >= 10


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("language", "code"), EXAMPLES)
async def test_example_runs(served: Served, language: str, code: str) -> None:
    here = code.replace("http://127.0.0.1:8000", served.http)
    here = here.replace("127.0.0.1:50051", served.grpc)
    if language == "python":
        await asyncio.to_thread(exec, compile(here, "example", "exec"), {})
    else:
        done = await asyncio.to_thread(
            subprocess.run,
            ["bash", "-eu", "-o", "pipefail", "-c", here],
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr
    for name in ("restored.png", "later.png", "out.png"):
        if name in code:
            with Image.open(name) as picture:
                assert picture.size == (48, 32)
