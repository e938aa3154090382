"""What `make image-test` relies on: the stages' order, the compose files' roles, pip's paths."""

import re
import shlex
from pathlib import Path

from deploy.image_build import INSIDE, LOCAL_PATH, ROOT, ImageStore, stages
from deploy.image_test import compose_services


def test_no_target_stands_behind_the_torch_of_another() -> None:
    """Older builders build every stage before the target."""
    text = (ROOT / "Dockerfile").read_text()
    names = list(stages())
    assert [name for name in names if name in ("api", "cpu", "gpu")] == ["api", "cpu", "gpu"]
    before_api = text[: text.index("AS api")]
    assert "engine" not in re.findall(r"'\.\[(.*)\]'", before_api)[0]
    assert names.index("build-cpu") > names.index("api")
    assert names.index("build-gpu") > names.index("cpu")


def test_the_fleet_is_that_of_the_compose_files_in_the_order_of_health() -> None:
    found = compose_services()
    started: set[str] = set()
    for name, service in found.items():
        needed = set(service.get("depends_on", {})) & found.keys()
        assert needed <= started, f"{name} is started before {needed - started}"
        started.add(name)
        command = service["command"]
        assert command if isinstance(command, list) else shlex.split(command)
        assert service["healthcheck"]["test"][0] == "CMD" and service["read_only"]


def test_paths_of_pip_are_moved_and_addresses_are_not() -> None:
    text = "https://pypi.example/simple file:///srv/index /opt/wheels"
    moved = "https://pypi.example/simple file:///tmp/pip/srv/index /tmp/pip/opt/wheels"
    assert LOCAL_PATH.sub(INSIDE, text) == moved


def test_pip_is_configured_for_the_build_alone(tmp_path: Path) -> None:
    mounts = ImageStore(tmp_path).pip_mounts()
    assert mounts[0] == (str(tmp_path / "pip.conf"), "/etc/pip.conf")
    assert all(inside == f"/tmp/pip{outside}" for outside, inside in mounts[1:])
    assert not re.search(r"(?<![\w/])/(?!tmp/pip)\w", (tmp_path / "pip.conf").read_text())
