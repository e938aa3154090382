import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.demo import (
    SCENES,
    Answer,
    Edited,
    EditWentWrong,
    Scene,
    damage,
    edit_scene,
    format_table,
    write_outputs,
)
from service.errors import NoWorker
from service.evaluation.metrics import psnr, to_pixels
from service.images import encode

SMALL = Scene("coffee.png", 64, ("derain", "lowlight"), "remove the rain & brighten it")


def read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.asarray(picture)


def keep(image: bytes, instruction: str) -> Answer:
    assert instruction == SMALL.instruction
    return Answer(image, SMALL.tasks)


def heal(image: bytes, instruction: str) -> Answer:
    return Answer(encode(to_pixels(damage(SMALL)[1]), "png"), SMALL.tasks)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_every_scene_is_damaged_the_same_way_at_every_run_and_visibly(scene: Scene) -> None:
    image, clean = damage(scene)
    again, _ = damage(scene)
    assert image.shape == (scene.size, scene.size, 3)
    assert np.array_equal(image, again)
    assert psnr(image, clean) < 22.0


def test_scenes_cover_every_first_plugin_a_sequence_and_a_larger_photo() -> None:
    assert {task for scene in SCENES for task in scene.tasks} == {
        "derain",
        "desnow",
        "dehaze",
        "lowlight",
    }
    assert any(len(scene.tasks) > 1 for scene in SCENES)
    assert {scene.size for scene in SCENES} == {256, 384}
    assert len({scene.name for scene in SCENES}) == len(SCENES)


def test_a_sequence_gets_the_damage_of_all_its_tasks() -> None:
    image, clean = damage(replace(SMALL, photo="astronaut.png"))
    assert np.mean(image < clean - 0.2) > 0.2, "it is dark"
    assert np.mean(image > clean + 0.2) > 0.02, "bright rain falls before it"


def test_an_edit_is_measured_against_the_clean_photo() -> None:
    untouched, healed = edit_scene(SMALL, keep), edit_scene(SMALL, heal)
    assert untouched.psnr_out == untouched.psnr_in == healed.psnr_in
    assert np.array_equal(healed.after, healed.truth)
    assert healed.seconds >= 0.0


def test_outputs_list_every_edit_and_every_file_is_there(tmp_path: Path) -> None:
    edits = [edit_scene(SMALL, heal)]
    write_outputs(edits, 3.21, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    (row,) = report["edits"]
    assert report["ready_s"] == 3.21
    assert row["task"] == "derain+lowlight"
    assert row["plan"] == ["derain", "lowlight"]
    assert row["psnr_out"] == 100.0 > row["psnr_in"]
    for role, pixels in (("before", edits[0].before), ("after", edits[0].after)):
        assert np.array_equal(read(tmp_path / row["files"][role]), pixels)
    page = (tmp_path / "index.html").read_text()
    assert all(name in page for name in row["files"].values())
    assert "rain &amp; brighten" in page
    assert read(tmp_path / "contact_sheet.png").shape[1] > 3 * 64


def test_the_table_has_task_plan_psnr_and_seconds() -> None:
    before, clean = (to_pixels(image) for image in damage(SMALL))
    edited = Edited(SMALL, before, clean, clean, ("derain", "lowlight"), 1.5)
    line = format_table([edited]).splitlines()[1]
    assert line.split()[:3] == ["derain+lowlight", "derain,", "lowlight"]
    assert f"{edited.psnr_in:.1f} -> inf" in line
    assert line.endswith("1.50")


def test_a_service_error_names_the_scene_and_the_reason() -> None:
    def refuse(image: bytes, instruction: str) -> Answer:
        raise NoWorker("no worker is alive")

    with pytest.raises(EditWentWrong, match=r"derain_lowlight_coffee_64.*no worker is alive"):
        edit_scene(SMALL, refuse)


def test_an_empty_plan_is_a_failure() -> None:
    with pytest.raises(EditWentWrong, match="no plugin was found"):
        edit_scene(SMALL, lambda image, instruction: Answer(image, ()))


def test_a_photo_of_another_size_is_a_failure() -> None:
    def shrink(image: bytes, instruction: str) -> Answer:
        pixels = np.asarray(Image.open(io.BytesIO(image)))[:32]
        return Answer(encode(np.ascontiguousarray(pixels), "png"), ("derain",))

    with pytest.raises(EditWentWrong, match="sent"):
        edit_scene(SMALL, shrink)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_demo_runs_the_whole_service_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service.demo", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=220,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["edits"]) == len(SCENES)
    for row in report["edits"]:
        assert "+".join(row["plan"]) == row["task"]
        assert row["psnr_out"] > row["psnr_in"], row["task"]
    url = re.search(r"http://127\.0\.0\.1:\d+", done.stdout)
    assert url is not None
    with pytest.raises(httpx.ConnectError):
        httpx.get(url[0], timeout=2.0, trust_env=False)
