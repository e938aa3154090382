"""Builds the Dockerfile's targets where no Docker engine runs: with buildah, without a registry.

The image of FROM is made by debootstrap and tagged with that name. pip inside of the build asks the
same indexes as pip outside; its configuration is mounted for the build and stays in no image.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TOOLS = ("buildah", "debootstrap", "runc")
TORCH_HOST = "download.pytorch.org"
MIRROR = "http://deb.debian.org/debian"
# What the slim images of Debian leave out.
SLIM = ("var/cache/apt", "var/lib/apt/lists", *(f"usr/share/{n}" for n in ("doc", "locale", "man")))
BASE = "docker.io/library/debian:bookworm-slim"
# /a/b and file:///a/b, not the path of another URL.
LOCAL_PATH = re.compile(r"(?:(?<=file://)|(?<![^\s]))/\S+")
INSIDE = r"/tmp/pip\g<0>"


class CannotBuild(Exception):
    """A tool is missing and cannot be installed; the message says which and what to do."""


@dataclass(frozen=True)
class Built:
    """An image: what it is called, how large it is, how long it took, and its configuration."""

    name: str
    size_mb: float
    seconds: float
    config: dict[str, Any]


def bring_tools() -> None:
    """Install with apt what is missing; CannotBuild without root or apt."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if not missing:
        return
    how = f"apt-get install {' '.join(missing)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise CannotBuild(f"these tools are missing: {', '.join(missing)}; as root: {how}")
    print(f"== installing with apt: {' '.join(missing)}", flush=True)
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    for command in (["apt-get", "update", "-qq"], install):
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
            raise CannotBuild(f"apt could not bring them; try: {how}")


class ImageStore:
    """Images in a folder, which root owns. vfs works everywhere; each layer is a copy there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)

    def buildah(self, *arguments: str, log: Path | None = None) -> str:
        """Standard output of a buildah command; with `log` it goes there, as it comes."""
        places = ("--root", str(self.folder / "storage"), "--runroot", str(self.folder / "run"))
        command = ["buildah", "--storage-driver", "vfs", *places, *arguments]
        if log is None:
            done = subprocess.run(command, capture_output=True, text=True)
        else:
            with log.open("w") as file:
                done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            said = done.stderr if log is None else log.read_text()[-3000:]
            raise subprocess.CalledProcessError(done.returncode, arguments[0], stderr=said)
        return done.stdout or ""

    def make_base(self) -> None:
        """The image that FROM names, unless it is there."""
        if BASE in self.buildah("images", "--format", "{{.Name}}:{{.Tag}}").split():
            return
        tree, log = self.folder / "debian", self.folder / "debootstrap.log"
        shutil.rmtree(tree, ignore_errors=True)
        command = ["debootstrap", "--variant=minbase", "bookworm", str(tree), MIRROR]
        with log.open("w") as file:
            subprocess.run(command, check=True, stdout=file, stderr=subprocess.STDOUT)
        for waste in SLIM:
            shutil.rmtree(tree / waste)
        container = self.buildah("from", "scratch").strip()
        self.buildah("add", "--quiet", container, str(tree), "/")
        self.buildah("commit", "--quiet", "--rm", container, BASE)
        shutil.rmtree(tree)

    def build(self, target: str) -> Built:
        """Build one target of the Dockerfile; its log lies in the folder."""
        began, name = time.monotonic(), f"diffplugin-serve:{target}"
        options = ["--pull-never", "--layers=false", "--isolation=chroot", "--format=docker"]
        mounts = [f"--volume={outside}:{inside}:ro" for outside, inside in self.pip_mounts()]
        arguments = [
            *options,
            *mounts,
            *torch_index(),
            "--target",
            target,
            "--tag",
            name,
            str(ROOT),
        ]
        self.buildah("bud", *arguments, log=self.folder / f"build-{target}.log")
        about = json.loads(self.buildah("images", "--json", name))[0]
        inspected = json.loads(self.buildah("inspect", "--type", "image", name))
        seconds = time.monotonic() - began
        return Built(name, _megabytes(about["size"]), seconds, inspected["Docker"]["config"])

    def root_of(self, image: Built) -> Path:
        """The folder that holds the image's files, mounted; leave it as it is."""
        container = self.buildah("from", "--pull-never", image.name).strip()
        return Path(self.buildah("mount", container).strip())

    def drop_containers(self) -> None:
        self.buildah("rm", "--all")

    def pip_mounts(self) -> list[tuple[str, str]]:
        """pip's configuration as one file, and every path of this machine that it names."""
        values = subprocess.run(["pip", "config", "list"], capture_output=True, text=True).stdout
        found = dict(re.findall(r"^(?:global|:env:|install)\.(\S+)='(.*)'$", values, re.MULTILINE))
        paths = {match[0] for value in found.values() for match in LOCAL_PATH.finditer(value)}
        # An index links to files beside it, so the folder around it comes along.
        paths = {str(Path(path).parent) if Path(path).is_dir() else path for path in paths}
        # Not at their own places, where packages of the build put files of theirs.
        lines = [f"{key} = {LOCAL_PATH.sub(INSIDE, value)}" for key, value in found.items()]
        file = self.folder / "pip.conf"
        file.write_text("\n".join(["[global]", *lines, ""]))
        there = sorted(path for path in paths if Path(path).exists())
        # A folder brings what lies in it.
        outer = [p for p in there if not any(Path(o) in Path(p).parents for o in there)]
        return [(str(file), "/etc/pip.conf"), *((path, f"/tmp/pip{path}") for path in outer)]


def torch_index() -> list[str]:
    """Another value of the Dockerfile's TORCH_INDEX where that index cannot be reached."""
    try:
        socket.create_connection((TORCH_HOST, 443), timeout=5).close()
    except OSError:
        print(f"== {TORCH_HOST} cannot be reached: torch comes from pip's own indexes", flush=True)
        return ["--build-arg", "TORCH_INDEX=https://pypi.org/simple"]
    return []


def stages() -> dict[str, int]:
    """Stages of the Dockerfile, and the instructions of each."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    parts = re.split(r"^FROM \S+ AS (\S+)$", text, flags=re.MULTILINE)[1:]
    bodies = zip(parts[::2], parts[1::2], strict=True)
    return {name: len(re.findall(r"^[A-Z]+ ", body, re.MULTILINE)) for name, body in bodies}


def _megabytes(size: str) -> float:
    number, unit = size.split()
    return float(number) * {"KB": 1e-3, "MB": 1.0, "GB": 1e3}[unit.upper()]
