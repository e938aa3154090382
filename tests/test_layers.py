"""Imports go down the layers only, and the api process never loads torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SERVICE = Path(__file__).parent.parent / "service"

# Lower numbers are lower layers; the longest prefix of a module's name decides.
LAYERS = {
    "service": 0,  # __version__
    "service.errors": 0,
    "service.heap": 0,
    "service.interpreter": 0,
    "service.settings": 0,
    "service.consumer_names": 0,
    "service.signals": 0,
    "service.jobs": 1,
    "service.api_keys": 1,
    "service.images": 1,
    "service.capacity": 1,
    "service.image": 1,  # image_files and its family: what images is made of
    "service.plugin_manifest": 1,
    "service.plugin_versions": 1,
    "service.plugin_publish": 3,
    "service.logs": 1,
    "service.trace_context": 0,
    "service.tracing": 1,
    "service.metrics": 3,
    "service.job_queue": 2,
    "service.queue": 2,
    "service.redis_server": 2,
    "service.client": 2,
    "service.pb": 2,
    "service.models": 2,
    "service.engine": 3,
    "service.selector": 3,
    "service.selector.process": 5,
    "service.api": 5,
    "service.worker": 5,
    "service.training": 5,
    "service.evaluation": 5,
    "service.launch": 6,
    "service.serve": 6,
    "service.local_edit": 6,
    "service.plugin_import": 6,
    "service.models_fetch": 6,
    "service.cli": 7,
    "service.demo": 7,
}
# The rows are roles of their own: they share layers below them, never each other.
APART = ("service.api", "service.worker", "service.selector.process")
FORBIDDEN = {
    "service.api": ("torch", "diffusers", "transformers", "service.models", "service.engine"),
    "service.client": ("torch", "fastapi", "redis"),
    "service.engine": ("redis", "fastapi", "uvicorn", "service.job_queue", "service.metrics"),
    "service.models": ("redis", "fastapi", "uvicorn", "service.job_queue", "service.metrics"),
}


def is_under(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def layer_of(module: str) -> int | None:
    """A file of the same family, e.g. cli_training beside cli, is of the same layer."""
    if module == "service":
        return LAYERS[module]
    families = [name for name in LAYERS if is_under(module, name) or module.startswith(name + "_")]
    families.remove("service")
    return LAYERS[max(families, key=len)] if families else None


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """What each module of the service imports."""
    found = {}
    for path in SERVICE.rglob("*.py"):
        parts = path.relative_to(SERVICE.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = imports_of(path)
    return found


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            # `from service import errors` imports a module; other names match none.
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def test_every_module_of_the_service_has_a_layer(imports: dict[str, set[str]]) -> None:
    homeless = [name for name in imports if layer_of(name) is None]
    assert not homeless, f"give these a layer in {__file__}: {homeless}"


def test_imports_go_down_the_layers_only(imports: dict[str, set[str]]) -> None:
    wrong = [
        f"{name} (layer {layer_of(name)}) imports {imported} (layer {layer_of(imported)})"
        for name, found in imports.items()
        for imported in sorted(found & imports.keys())
        if (layer_of(imported) or 0) > (layer_of(name) or 0)
    ]
    assert not wrong, "\n".join(wrong)


def test_roles_do_not_import_each_other(imports: dict[str, set[str]]) -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, found in imports.items()
        for role in APART
        for other in APART
        for imported in found
        if role != other and is_under(name, role) and is_under(imported, other)
    ]
    assert not wrong, "\n".join(wrong)


def test_packages_import_nothing_forbidden_to_them(imports: dict[str, set[str]]) -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, found in imports.items()
        for package, forbidden in FORBIDDEN.items()
        for imported in sorted(found)
        if is_under(name, package) and any(is_under(imported, banned) for banned in forbidden)
    ]
    assert not wrong, "\n".join(wrong)


def test_importing_the_api_loads_no_torch() -> None:
    command = [sys.executable, "-X", "importtime", "-c", "import service.api.app, service.client"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "fastapi" in loaded
    assert not loaded & {"torch", "diffusers", "transformers", "cv2", "skimage"}
