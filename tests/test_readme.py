"""What the documents claim about the tree, the settings and the dependencies is true."""

import re
import subprocess
import tomllib
from pathlib import Path

import yaml

from service.settings import Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def tree_paths() -> list[str]:
    """Paths of the README's tree: names are indented by two per level, folders end in /."""
    block = README.split("<!-- tree -->")[1].split("```")[1]
    paths: list[str] = []
    parents: list[str] = []
    for line in block.strip("\n").splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        for name in re.split(r"\s{2,}", line.strip())[0].split(", "):
            parents[depth:] = [name]
            paths.append("".join(parents))
    return paths


def requirement_names() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    return {re.split(r"[\[><=!~ ;]", line)[0] for line in lines}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_path_of_the_tree_is_there() -> None:
    missing = [path for path in tree_paths() if not (ROOT / path).exists()]
    assert not missing, f"take these out of the README's tree: {missing}"


def test_the_tree_lists_every_module() -> None:
    listed = set(tree_paths())
    modules = [path.relative_to(ROOT) for path in (ROOT / "service").rglob("*.py")]
    missing = [
        str(path)
        for path in sorted(modules)
        if str(path) not in listed and path.name != "__init__.py" and "pb" not in path.parts
    ]
    assert not missing, f"give these a line in the README's tree: {missing}"


def test_every_make_target_that_is_named_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    texts = [README, (ROOT / "CONTRIBUTING.md").read_text(), (ROOT / ".ci/run").read_text()]
    named = {name for text in texts for name in re.findall(r"\bmake ([a-z]+)\b(?=[`\s])", text)}
    assert {"demo", "test"} <= named
    assert {name for name in named if f"`make {name}" in "".join(texts)} <= targets


def test_ci_runs_what_the_readme_names() -> None:
    commands = [
        line
        for line in (ROOT / ".ci/run").read_text().splitlines()
        if line and not line.startswith(("#", "set ", "cd ")) and "GOLDEN_DIR" not in line
    ]
    assert commands == ["make test"]
    assert "make test" in README


def test_every_setting_is_documented_with_its_default() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    rows = []
    for name, field in Settings.model_fields.items():
        default = "(empty)" if field.default in ("", None) else f"`{field.default}`"
        rows.append(f"| `DIFFPLUGIN_{name.upper()}` | {default} | {field.description} |")
    table = [line for line in text.splitlines() if line.startswith("| `DIFFPLUGIN_")]
    assert table == rows, "the table should be:\n" + "\n".join(rows)


def test_every_dependency_has_its_reason() -> None:
    section = (ROOT / "docs/architecture.md").read_text().split("## Dependencies")[1]
    rows = re.findall(r"^\| ([\w.-]+) \| \w* ?\| (.+) \|$", section, re.MULTILINE)
    reasons = {name: reason for name, reason in rows if name not in ("package", "---")}
    assert reasons.keys() == requirement_names()


def test_every_dependency_that_make_installs_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonical(line.split("==")[0]) for line in lines if not line.startswith("#")}
    needed = {canonical(name) for name in requirement_names()} - {"xformers"}
    assert not needed - pinned
    assert all("==" in line for line in lines if not line.startswith("#"))


def test_the_compose_file_runs_every_role_with_images_that_the_dockerfile_builds() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    stages = re.findall(r"^FROM \S+ AS (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert {"redis", "api", "selector", "worker"} <= services.keys()
    targets = {service["build"]["target"] for service in services.values() if "build" in service}
    assert targets <= set(stages)


def test_prometheus_scrapes_the_api_of_the_compose_file() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    targets = config["scrape_configs"][0]["static_configs"][0]["targets"]
    assert targets == ["api:8000"]


def test_python_is_found_or_its_lack_explained() -> None:
    refused = subprocess.run(
        ["scripts/install", "", "unused"], cwd=ROOT, capture_output=True, text=True, timeout=10
    )
    assert refused.returncode == 1
    assert "Python 3.11 or newer is needed" in refused.stderr
