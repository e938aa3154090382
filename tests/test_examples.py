"""Every file of examples/ runs against a service, and does what it says."""

import os
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.api_stack import photo
from tests.page_stack import PageService, page_service

EXAMPLES = Path(__file__).parent.parent / "examples"
# The example, and what it is called with; its results, in the order of its photos.
CALLS = {
    "edit_python.py": (["a.png", "derain", "out.png"], ["out.png"]),
    "edit_curl.sh": (["a.png", "derain", "out.png"], ["out.png"]),
    "async_client.py": (["derain", "a.png", "b.png"], ["a.restored.png", "b.restored.png"]),
}


@pytest.fixture
def service(redis_url: str, tmp_path: Path) -> Iterator[PageService]:
    with page_service(redis_url, tmp_path / "store") as service:
        yield service


def test_every_example_is_called() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == CALLS.keys()


@pytest.mark.parametrize("name", CALLS)
def test_example_restores_its_photos(name: str, service: PageService, tmp_path: Path) -> None:
    arguments, results = CALLS[name]
    for source in ("a.png", "b.png"):
        (tmp_path / source).write_bytes(photo())
    command = [sys.executable] if name.endswith(".py") else ["sh"]
    variables = {**os.environ, "DIFFPLUGIN_URL": service.url, "NO_PROXY": "127.0.0.1"}
    variables |= {"PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(
        [*command, str(EXAMPLES / name), *arguments],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    before = np.asarray(Image.open(BytesIO(photo())).convert("RGB"), np.float64) / 255
    for result in results:
        with Image.open(tmp_path / result) as restored:
            after = np.asarray(restored.convert("RGB"), np.float64) / 255
        assert np.abs(after - np.sqrt(before)).max() < 2 / 255  # what the stack's worker does
