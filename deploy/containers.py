"""Containers as runc runs them: the user of the image, a read-only root, no capabilities.

Only /tmp can be written. They have no network but one of their own, which several may share.
"""

import json
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.image_build import ROOT, Built, ImageStore

HEALTHY_TIMEOUT_S = 300.0


@dataclass
class Container:
    """A process of an image, as runc runs it: `bundle` is the folder of its configuration."""

    name: str
    bundle: Path
    state: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        log = (self.bundle / "log").open("wb")
        run = self._runc("run", "--bundle", str(self.bundle), self.name)
        self.process = subprocess.Popen(run, stdout=log, stderr=subprocess.STDOUT)

    def execute(self, command: list[str]) -> subprocess.CompletedProcess[bytes]:
        """Run one more command in it, as its user."""
        return subprocess.run(self._runc("exec", self.name, *command), capture_output=True)

    def wait_until_healthy(self, check: list[str]) -> None:
        deadline = time.monotonic() + HEALTHY_TIMEOUT_S
        while (done := self.execute(check)).returncode:
            if self.process.poll() is not None or time.monotonic() > deadline:
                log = (self.bundle / "log").read_text(errors="replace")[-3000:]
                raise AssertionError(f"{self.name} is not healthy: {done.stderr!r}\n{log}")
            time.sleep(0.5)

    def stop(self) -> None:
        subprocess.run(self._runc("kill", self.name, "TERM"), capture_output=True)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            subprocess.run(self._runc("kill", self.name, "KILL"), capture_output=True)
            self.process.wait(10)
        subprocess.run(self._runc("delete", "--force", self.name), capture_output=True)

    @property
    def network(self) -> str:
        """The file of its network, for containers that share it as those of a pod do."""
        state = json.loads(subprocess.check_output(self._runc("state", self.name)))
        return f"/proc/{state['pid']}/ns/net"

    def _runc(self, *arguments: str) -> list[str]:
        return ["runc", "--root", str(self.state), *arguments]


class Runtime:
    """Makes containers of built images; those of one image share its files, read-only."""

    def __init__(self, store: ImageStore) -> None:
        self._store, self._roots = store, dict[str, Path]()

    def container(
        self,
        name: str,
        image: Built,
        command: list[str],
        variables: dict[str, str],
        volumes: list[str] | None = None,
        network: str = "",
    ) -> Container:
        bundle = self._store.folder / "bundles" / name
        bundle.mkdir(parents=True, exist_ok=True)
        (bundle / "config.json").unlink(missing_ok=True)
        subprocess.run(["runc", "spec", "--bundle", str(bundle)], check=True)
        spec = json.loads((bundle / "config.json").read_text())
        uid, gid = (int(part) for part in image.config["User"].split(":"))
        spec["root"] = {"path": str(self.root_of(image)), "readonly": True}
        spec["process"] |= {
            "terminal": False,
            "user": {"uid": uid, "gid": gid},
            "args": command,
            "env": [*image.config["Env"], *(f"{k}={v}" for k, v in variables.items())],
            "cwd": image.config["WorkingDir"],
            "capabilities": {},
            "noNewPrivileges": True,
        }
        spec["mounts"] += [{"destination": "/tmp", "type": "tmpfs", "options": ["mode=1777"]}]
        hosts = bundle / "hosts"
        hosts.write_text("127.0.0.1 localhost redis api\n")
        binds = [f"{hosts}:/etc/hosts", *(volumes or [])]
        spec["mounts"] += [_bind(*text.split(":")[:2]) for text in binds]
        if network:
            space = next(s for s in spec["linux"]["namespaces"] if s["type"] == "network")
            space["path"] = network
        spec["hostname"] = name  # `diffplugin workers --here` looks for it
        (bundle / "config.json").write_text(json.dumps(spec))
        return Container(name, bundle, self._store.folder / "runc")

    def root_of(self, image: Built) -> Path:
        """The folder of the image's files."""
        if image.name not in self._roots:
            self._roots[image.name] = self._store.root_of(image)
        return self._roots[image.name]


def _bind(source: str, destination: str) -> dict[str, Any]:
    path = str((ROOT / source).resolve())
    options = ["rbind", "ro"]
    return {"destination": destination, "type": "bind", "source": path, "options": options}
