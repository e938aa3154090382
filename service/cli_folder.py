"""`diffplugin edit FOLDER`: every picture of a folder, one at a time, whatever happens to one."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from service.errors import DiffPluginError, InvalidRequest

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".heic", ".heif")


@dataclass
class Summary:
    num_edited: int = 0
    num_skipped: int = 0
    failures: dict[str, str] = field(default_factory=dict)  # reason by file name

    def __str__(self) -> str:
        counts = f"{self.num_edited} edited, {self.num_skipped} there already"
        lines = [f"{counts}, {len(self.failures)} failed"]
        return "\n".join([*lines, *(f"  {name}: {why}" for name, why in self.failures.items())])


def edit_folder(folder: Path, out: Path, suffix: str, edit: Callable[[bytes], bytes]) -> Summary:
    """Edit each picture of `folder` into `out`, as NAME + `suffix`.

    What is there already is left alone, so that an interrupted run goes on; a failure is noted.
    Only one picture is in memory at a time.
    """
    if out.resolve() == folder.resolve():
        raise InvalidRequest(f"{out}: choose another folder than that of the originals")
    pictures = sorted(_pictures(folder))
    if not pictures:
        raise InvalidRequest(f"{folder} has no picture; looked for {', '.join(SUFFIXES)}")
    out.mkdir(parents=True, exist_ok=True)
    summary = Summary()
    with tqdm(pictures, unit="picture") as bar:
        for picture in bar:
            bar.set_description(picture.name)
            # The whole name: a.png and a.jpg are two pictures.
            _edit_one(picture, out / f"{picture.name}{suffix}", edit, summary)
    return summary


def _edit_one(
    picture: Path, target: Path, edit: Callable[[bytes], bytes], summary: Summary
) -> None:
    if target.exists():
        summary.num_skipped += 1
        return
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.write_bytes(edit(picture.read_bytes()))
        os.replace(partial, target)  # a file under its own name is a finished one
        summary.num_edited += 1
    except (DiffPluginError, OSError) as error:
        summary.failures[picture.name] = str(error)
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _pictures(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith("."):
            yield path
