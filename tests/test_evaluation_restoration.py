import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from service.engine.engine import build_engine
from service.engine.trajectory import Edit
from service.engine.updates import EditDone
from service.errors import UnknownPlugin
from service.evaluation.metrics import to_pixels
from service.evaluation.restoration import engine_restorer, evaluate_restoration, seeded_pair
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin

Pixels = NDArray[np.uint8]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("coffee.png", "chelsea.png"):
        pixels = cv2.imread(str(Path(data.data_dir) / name))
        cv2.imwrite(str(folder / name), pixels)
    return folder


def keep(images: list[Pixels], plugin: str) -> list[Pixels]:
    return images


def test_a_restorer_that_does_nothing_ends_where_it_began(photos: Path, tmp_path: Path) -> None:
    out_json = tmp_path / "out" / "r.json"
    evaluate_restoration(
        photos, ("derain", "colorize"), 64, keep, out_json, tmp_path / "out" / "sheet.png"
    )
    tasks = json.loads(out_json.read_text())["tasks"]
    assert list(tasks) == ["derain", "colorize"]
    for row in tasks.values():
        assert row["num_photos"] == 2
        assert row["psnr_out"] == row["psnr_in"]
        assert row["ssim_out"] == row["ssim_in"]
        assert row["classical_psnr"] == max(row["classical"].values())
        assert row["classical"][row["classical_method"]] == row["classical_psnr"]
    assert tasks["colorize"]["ciede2000_out"] == tasks["colorize"]["ciede2000_in"] > 1.0
    assert "ciede2000_out" not in tasks["derain"]


def test_a_perfect_restorer_gets_a_finite_perfect_score(photos: Path, tmp_path: Path) -> None:
    paths = sorted(photos.iterdir())

    def restore(images: list[Pixels], plugin: str) -> list[Pixels]:
        assert plugin == "dehaze"
        return [to_pixels(seeded_pair(path, plugin, 64, 7).target) for path in paths]

    report = evaluate_restoration(
        photos, ("dehaze",), 64, restore, None, tmp_path / "s.png", seed=7
    )
    row = report["tasks"]["dehaze"]  # type: ignore[index]
    assert row["psnr_out"] == 100.0
    assert row["ssim_out"] == 1.0


def test_a_photo_is_degraded_the_same_way_whatever_else_is_in_the_run(
    photos: Path, tmp_path: Path
) -> None:
    seen: list[Pixels] = []

    def record(images: list[Pixels], plugin: str) -> list[Pixels]:
        seen.extend(images)
        return images

    for limit in (None, 1):
        evaluate_restoration(photos, ("desnow",), 64, record, None, tmp_path / "s.png", limit=limit)
    both, alone = seen[:2], seen[2:]
    assert len(alone) == 1
    assert np.array_equal(both[0], alone[0])
    assert not np.array_equal(both[0], both[1])


def test_faces_are_judged_on_photos_that_are_named_so(photos: Path, tmp_path: Path) -> None:
    (photos / "coffee.png").rename(photos / "a_face_of_coffee.png")
    report = evaluate_restoration(
        photos, ("face", "derain"), 64, keep, None, tmp_path / "sheet.png"
    )
    counts = {name: row["num_photos"] for name, row in report["tasks"].items()}  # type: ignore[attr-defined]
    assert counts == {"face": 1, "derain": 2}


def test_the_sheet_shows_input_output_baseline_and_truth(photos: Path, tmp_path: Path) -> None:
    def whiten(images: list[Pixels], plugin: str) -> list[Pixels]:
        return [np.full_like(image, 255) for image in images]

    evaluate_restoration(photos, ("lowlight",), 64, whiten, None, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as picture:
        sheet = np.asarray(picture)
    first_rows = sheet[40:80]
    step = 64 + 6
    means = [first_rows[:, 6 + i * step : 6 + i * step + 64].mean() for i in range(4)]
    assert means[1] == 255.0
    assert means[0] < means[3] < means[1]
    assert means[0] < means[2] < means[1]


def test_a_limit_below_one_and_an_empty_folder_are_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="limit"):
        evaluate_restoration(photos, ("derain",), 64, keep, None, tmp_path / "s.png", limit=0)
    with pytest.raises(FileNotFoundError):
        evaluate_restoration(tmp_path / "none", ("derain",), 64, keep, None, tmp_path / "s.png")


def test_the_engine_restores_more_photos_than_fit_a_batch_and_keeps_their_order(
    tmp_path: Path,
) -> None:
    write_tiny_base(tmp_path)
    write_tiny_plugin(tmp_path, "derain", seed=1, default_steps=2)
    engine = build_engine(tmp_path, BASE, "cpu", max_batch_size=2, num_threads=1)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(5)]
    together = engine_restorer(engine)(images, "derain")
    for image, restored in zip(images, together, strict=True):
        engine.add(Edit("alone", image, ("derain",), seed=0))
        (alone,) = [u for _ in range(2) for u in engine.step() if isinstance(u, EditDone)]
        assert np.abs(alone.pixels.astype(int) - restored).max() <= 1
    with pytest.raises(UnknownPlugin):
        engine_restorer(engine)(images, "absent")
