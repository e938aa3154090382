"""The demo: damaged sample photos go through the real service, and before/after/truth comes out.

`python -m service.demo` starts the service, edits scikit-image's sample photos over HTTP and writes
demo_output/ (contact_sheet.png, index.html, report.json).
"""

import argparse
import html
import io
import json
import math
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageOps
from skimage import data

from service.client import Client
from service.errors import DiffPluginError
from service.evaluation.metrics import MAX_PSNR_DB, psnr, to_image, to_pixels
from service.evaluation.sheet import Section, Tile, caption, draw_sheet
from service.images import encode
from service.launch import (
    RunningService,
    ServiceDidNotStart,
    exit_on_sigterm,
    running_service,
)
from service.training.degradations import Image, make_pair

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Scene:
    """A sample photo, the tasks that are to undo its damage, in that order, and the sentence."""

    photo: str
    size: int
    tasks: tuple[str, ...]
    instruction: str

    @property
    def name(self) -> str:
        return f"{'_'.join(self.tasks)}_{Path(self.photo).stem}_{self.size}"


SCENES = (
    Scene("rocket.jpg", 256, ("derain",), "Please remove the rain"),
    Scene("chelsea.png", 256, ("desnow",), "remove the snow"),
    Scene("coffee.png", 256, ("dehaze",), "clear the haze"),
    Scene("astronaut.png", 256, ("lowlight",), "too dark, brighten it"),
    Scene("coffee.png", 256, ("derain", "lowlight"), "remove the rain, then brighten it"),
    Scene("coffee.png", 256, ("lowlight", "derain"), "brighten it, then remove the rain"),
    Scene("astronaut.png", 384, ("derain",), "get rid of the rain streaks"),
)


@dataclass(frozen=True)
class Answer:
    """What the service returned for one edit: the image file and the plugins it ran."""

    image: bytes
    plan: tuple[str, ...]


EditPhoto = Callable[[bytes, str], Answer]


@dataclass(frozen=True)
class Edited:
    """One finished edit of the demo."""

    scene: Scene
    before: Pixels
    after: Pixels
    truth: Pixels
    plan: tuple[str, ...]
    seconds: float

    @property
    def psnr_in(self) -> float:
        return psnr(to_image(self.before), to_image(self.truth))

    @property
    def psnr_out(self) -> float:
        return psnr(to_image(self.after), to_image(self.truth))


class EditWentWrong(Exception):
    """An edit of the demo failed; the message says which and why."""


def damage(scene: Scene) -> tuple[Image, Image]:
    """(damaged, clean) photo of a scene, the same at every run.

    Damage is done in the reverse order of its undoing: ("lowlight", "derain") is a rainy scene that
    was exposed too short, ("derain", "lowlight") a dark scene with bright rain in front.
    """
    path = Path(str(data.data_dir)) / scene.photo
    with Picture.open(path) as picture:
        square = ImageOps.fit(picture.convert("RGB"), (scene.size, scene.size))
    clean = to_image(np.asarray(square))
    rng = np.random.default_rng(zlib.crc32(scene.name.encode()))
    image = clean
    for task in reversed(scene.tasks):
        image = make_pair(task, image, rng, scene.size / 256).input
    return image, clean


def edit_scene(scene: Scene, edit: EditPhoto) -> Edited:
    """Send the damaged photo with the sentence, and check what comes back."""
    damaged, clean = damage(scene)
    before = to_pixels(damaged)
    started = time.monotonic()
    try:
        answer = edit(encode(before, "png"), scene.instruction)
    except DiffPluginError as error:
        raise EditWentWrong(f"{scene.name}: {type(error).__name__}: {error}") from error
    seconds = time.monotonic() - started
    if not answer.plan:
        raise EditWentWrong(f"{scene.name}: no plugin was found for {scene.instruction!r}")
    with Picture.open(io.BytesIO(answer.image)) as picture:
        after = np.asarray(picture.convert("RGB"))
    if after.shape != before.shape:
        raise EditWentWrong(f"{scene.name}: sent {before.shape}, got {after.shape} back")
    return Edited(scene, before, after, to_pixels(clean), answer.plan, seconds)


def write_outputs(edits: Sequence[Edited], ready_s: float, folder: Path) -> None:
    """Pictures, contact sheet, page and report."""
    folder.mkdir(parents=True, exist_ok=True)
    for edited in edits:
        for role, name in _files(edited).items():
            (folder / name).write_bytes(encode(getattr(edited, role), "png"))
    sections = [
        Section(f"{edited.scene.instruction!r}  ->  {_plan(edited)}", [_tiles(edited)])
        for edited in edits
    ]
    draw_sheet(sections, folder / "contact_sheet.png", photos_per_row=1)
    (folder / "index.html").write_text(_page(edits))
    report = {"ready_s": round(ready_s, 2), "edits": [_row(edited) for edited in edits]}
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")


def format_table(edits: Sequence[Edited]) -> str:
    """The table for the terminal."""
    lines = [f"{'task':<18} {'plan':<22} {'px':>4} {'PSNR in -> out (dB)':>20} {'seconds':>8}"]
    for e in edits:
        gain = f"{e.psnr_in:.1f} -> {e.psnr_out:.1f}"
        task = "+".join(e.scene.tasks)
        lines.append(f"{task:<18} {_plan(e):<22} {e.scene.size:>4} {gain:>20} {e.seconds:>8.2f}")
    return "\n".join(lines)


def main() -> int:
    """Run the demo; 0 if every edit worked."""
    options = _parse_options()
    cv2.setNumThreads(1)
    exit_on_sigterm()
    print("starting the service ...", flush=True)
    try:
        with running_service(options.out / "service.log", options.start_timeout_s) as service:
            print(f"ready after {service.ready_s:.1f} s at {service.url}", flush=True)
            edits = _edit_all(service)
    except (ServiceDidNotStart, EditWentWrong) as error:
        print(f"demo failed: {error}\nlog: {options.out / 'service.log'}", file=sys.stderr)
        return 1
    write_outputs(edits, service.ready_s, options.out)
    print(f"\n{format_table(edits)}\n\nlook at {options.out / 'index.html'}")
    return 0


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m service.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo_output"))
    parser.add_argument("--start-timeout-s", type=float, default=120.0)
    return parser.parse_args()


def _edit_all(service: RunningService) -> list[Edited]:
    edits = []
    # An explicit transport keeps a proxy of the environment out of the loopback.
    with Client(service.url, transport=httpx.HTTPTransport()) as client:

        def edit(image: bytes, instruction: str) -> Answer:
            result = client.edit(image, instruction, seed=0)
            return Answer(result.image, () if result.no_op else result.plan.runnable)

        for number, scene in enumerate(SCENES, start=1):
            print(f"[{number}/{len(SCENES)}] {scene.instruction!r} on {scene.photo}", flush=True)
            edits.append(edit_scene(scene, edit))
    return edits


def _plan(edited: Edited) -> str:
    return ", ".join(edited.plan)


def _files(edited: Edited) -> dict[str, str]:
    return {role: f"{edited.scene.name}_{role}.png" for role in ("before", "after", "truth")}


def _tiles(edited: Edited) -> list[Tile]:
    return [
        Tile(edited.before, caption("before", edited.psnr_in)),
        Tile(edited.after, caption("after", edited.psnr_out)),
        Tile(edited.truth, caption("truth")),
    ]


def _row(edited: Edited) -> dict[str, object]:
    return {
        "task": "+".join(edited.scene.tasks),
        "photo": edited.scene.photo,
        "size": edited.scene.size,
        "instruction": edited.scene.instruction,
        "plan": list(edited.plan),
        "psnr_in": _finite(edited.psnr_in),
        "psnr_out": _finite(edited.psnr_out),
        "seconds": round(edited.seconds, 3),
        "files": _files(edited),
    }


def _finite(psnr_db: float) -> float:
    return MAX_PSNR_DB if math.isinf(psnr_db) else round(psnr_db, 3)


def _page(edits: Sequence[Edited]) -> str:
    rows = "\n".join(_page_row(edited) for edited in edits)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Diff-Plugin Serve: demo</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em }}
td, th {{ padding: .4em; text-align: left; vertical-align: top }}
img {{ width: 256px; max-width: 28vw; display: block }}
</style>
<h1>Diff-Plugin Serve: demo</h1>
<table>
<tr><th>instruction</th><th>before</th><th>after</th><th>truth</th></tr>
{rows}
</table>
</html>
"""


def _page_row(edited: Edited) -> str:
    files = _files(edited)
    labels = {
        "before": caption("before", edited.psnr_in),
        "after": caption("after", edited.psnr_out),
        "truth": "truth",
    }
    cells = "".join(
        f'<td><img src="{files[role]}" alt="{role}">{label}</td>' for role, label in labels.items()
    )
    words = html.escape(edited.scene.instruction)
    plan = html.escape(_plan(edited))
    return f"<tr><td><q>{words}</q><br>plan: {plan}<br>{edited.seconds:.2f} s</td>{cells}</tr>"


if __name__ == "__main__":
    sys.exit(main())
