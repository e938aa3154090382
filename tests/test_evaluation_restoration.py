import csv
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from service.engine.edit import Edit
from service.engine.engine import build_engine
from service.engine.updates import EditDone
from service.errors import InvalidRequest, UnknownPlugin
from service.evaluation.cases import seeded_pair
from service.evaluation.engine_restore import Restore, engine_restorer
from service.evaluation.metrics import to_pixels
from service.evaluation.mixtures import MIXTURES
from service.evaluation.restoration import Evaluation, Options, evaluate_restoration
from service.evaluation.restoration_page import terminal_table, write_restoration_page
from service.evaluation.sheet import draw_sheet
from service.training.photos import read_photo, to_square
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


def keep(images: list[Pixels], plugins: tuple[str, ...]) -> list[Pixels]:
    return images


def measure(images: Path, *tasks: str, restore: Restore = keep, **options: Any) -> Evaluation:
    return evaluate_restoration(Options(tasks, images, size=64, **options), restore)


def perfect(images: Path, task: str) -> Restore:
    """Finds each input among the damaged photos, and returns its truth."""
    pairs = [seeded_pair(path, task, 64, 0) for path in sorted(images.iterdir())]
    truths = {to_pixels(p.input).tobytes(): to_pixels(p.target) for p in pairs}

    def restore(images: list[Pixels], plugins: tuple[str, ...]) -> list[Pixels]:
        assert plugins == (task,)
        return [truths[image.tobytes()] for image in images]

    return restore


def test_a_restorer_that_does_nothing_ends_where_it_began(photos: Path) -> None:
    tasks = measure(photos, "derain", "colorize").report["tasks"]
    assert list(tasks) == ["derain", "colorize"]
    for row in tasks.values():
        assert row["num_photos"] == 2
        assert row["psnr_gain"] == row["ssim_gain"] == row["gmsd_gain"] == 0
        assert row["psnr_out"] == row["psnr_in"] < 100
        assert "ms_ssim_in" not in row, "64 px are too few for its five scales"
    derain, colorize = tasks["derain"], tasks["colorize"]
    assert derain["classical_psnr"] == max(derain["classical"].values())
    assert derain["classical"][derain["classical_method"]] == derain["classical_psnr"]
    assert "ciede2000_in" not in derain
    assert colorize["ciede2000_out"] == colorize["ciede2000_in"] > 1.0
    assert colorize["classical_ciede2000"] == min(colorize["classical"].values())


def test_a_perfect_restorer_gets_a_finite_perfect_score(photos: Path) -> None:
    row = measure(photos, "dehaze", restore=perfect(photos, "dehaze")).report["tasks"]["dehaze"]
    assert row["psnr_out"] == 100.0
    assert row["ssim_out"] == 1.0
    assert row["gmsd_out"] == pytest.approx(0.0, abs=1e-6)


def test_metrics_whose_networks_are_not_on_disk_are_named(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    evaluation = measure(photos, "derain", limit=1)
    lines = evaluation.report["not_measured"]
    assert [line.split(" not measured")[0] for line in lines] == ["LPIPS", "FID and KID"]
    assert all(line in terminal_table(evaluation.report) for line in lines)


def test_ms_ssim_is_measured_where_the_photo_is_large_enough(photos: Path) -> None:
    options = Options(("derain",), photos, size=192, limit=1)
    row = evaluate_restoration(options, keep).report["tasks"]["derain"]
    assert 0.3 < row["ms_ssim_in"] == row["ms_ssim_out"] < 1.0


def test_a_photo_is_degraded_the_same_way_whatever_else_is_in_the_run(photos: Path) -> None:
    seen: list[Pixels] = []

    def record(images: list[Pixels], plugins: tuple[str, ...]) -> list[Pixels]:
        seen.extend(images)
        return images

    for limit in (None, 1):
        measure(photos, "desnow", restore=record, limit=limit)
    both, alone = seen[:2], seen[2:]
    assert len(alone) == 1
    assert np.array_equal(both[0], alone[0])
    assert not np.array_equal(both[0], both[1])


def test_faces_are_judged_on_photos_that_are_named_so(photos: Path) -> None:
    (photos / "coffee.png").rename(photos / "a_face_of_coffee.png")
    tasks = measure(photos, "face", "derain").report["tasks"]
    assert {name: row["num_photos"] for name, row in tasks.items()} == {"face": 1, "derain": 2}
    tasks = measure(photos, "derain", pattern="chel*").report["tasks"]
    assert tasks["derain"]["num_photos"] == 1


def test_pairs_of_a_table_are_measured_as_they_are(photos: Path, tmp_path: Path) -> None:
    table = photos / "pairs.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["input", "target"], ["coffee.png", "coffee.png"]])
    evaluation = evaluate_restoration(Options(("derain",), pairs=table), keep)
    row = evaluation.report["pairs"]["derain"]
    assert (row["num_photos"], row["psnr_in"]) == (1, 100.0)
    table.write_text("coffee.png,chelsea.png\n")
    with pytest.raises(InvalidRequest, match=r"pairs\.csv:1: input is 600x400, target 451x300"):
        evaluate_restoration(Options(("derain",), pairs=table), keep)
    table.write_text("input,target\ncoffee.png\n")
    with pytest.raises(InvalidRequest, match="pairs.csv:2 needs two columns"):
        evaluate_restoration(Options(("derain",), pairs=table), keep)


def test_real_photos_go_through_the_folder_of_their_task(photos: Path) -> None:
    (photos / "derain").mkdir()
    (photos / "coffee.png").rename(photos / "derain/coffee.png")

    def whiten(images: list[Pixels], plugins: tuple[str, ...]) -> list[Pixels]:
        assert images[0].shape[:2] != (64, 64), "real photos keep their shape"
        return [np.full_like(image, 255) for image in images]

    options = Options(("derain", "dehaze"), unpaired=photos, size=64)
    evaluation = evaluate_restoration(options, whiten)
    rows = evaluation.report["unpaired"]
    assert {name: row["num_photos"] for name, row in rows.items()} == {"derain": 1, "dehaze": 2}
    assert rows["derain"]["before"]["contrast"] > 0.1
    assert rows["derain"]["after"]["contrast"] == rows["derain"]["after"]["noise"] == 0
    assert rows["derain"]["after"]["haze"] == rows["derain"]["after"]["clipped"] == 1


def test_both_orders_of_two_plugins_are_compared_with_each_alone(photos: Path) -> None:
    """A plugin that takes half of the damage away, whatever it is: two take three quarters."""
    truths = {path.stem: to_square(read_photo(path), 64) for path in sorted(photos.iterdir())}

    def halve(images: list[Pixels], plugins: tuple[str, ...]) -> list[Pixels]:
        ordered = sorted(truths)
        weight = 0.5 ** len(plugins)
        return [
            to_pixels(image / np.float32(255) * weight + truths[name] * (1 - weight))
            for image, name in zip(images, ordered, strict=True)
        ]

    tasks = tuple(dict.fromkeys(task for pair in MIXTURES.values() for task in pair))
    evaluation = measure(photos, *tasks, restore=halve, sequences=True)
    assert evaluation.report["sequences"].keys() == MIXTURES.keys()
    for row in evaluation.report["sequences"].values():
        assert len(row["psnr"]) == 4
        assert row["over_single"] == pytest.approx(6.02, abs=0.3)
        assert row["psnr"][row["best_single"]] - row["psnr_in"] == pytest.approx(6.02, abs=0.3)


def test_harm_is_the_distance_of_a_clean_photo_to_itself(photos: Path) -> None:
    def darken(images: list[Pixels], plugins: tuple[str, ...]) -> list[Pixels]:
        return [to_pixels(image / np.float32(255) * 0.5) for image in images]

    tasks = ("derain", "colorize", "snow")
    assert list(measure(photos, *tasks, clean=True).report["clean"]) == ["derain"]
    harmless = measure(photos, *tasks, clean=True).report["clean"]["derain"]
    assert (harmless["psnr"], harmless["num_below_floor"]) == (100.0, 0)
    harmful = measure(photos, *tasks, clean=True, restore=darken).report["clean"]["derain"]
    assert harmful["num_below_floor"] == 2
    assert harmful["psnr_least"] <= harmful["psnr"] < 28


def test_content_is_judged_beside_the_added_streaks(photos: Path) -> None:
    def streak(images: list[Pixels], plugins: tuple[str, ...]) -> list[Pixels]:
        changed = [image.copy() for image in images]
        for image in changed:
            image[:, 20:22] = 255
            image[:, 40:42] = 255
        return changed

    def veil(images: list[Pixels], plugins: tuple[str, ...]) -> list[Pixels]:
        return [to_pixels(image / np.float32(255) * 0.7 + 0.3) for image in images]

    streaks = measure(photos, "rain", restore=streak).report["generation"]["rain"]
    assert streaks["content_psnr"] > 60
    assert 0.05 < streaks["marks_share"] < 0.25
    assert streaks["marks_contrast"] > 0.2
    fog = measure(photos, "rain", restore=veil).report["generation"]["rain"]
    assert fog["content_psnr"] < 20, "a veil is damage to the content, not weather"
    none = measure(photos, "rain").report["generation"]["rain"]
    assert none["marks_share"] == 0
    assert none["marks_share_procedural"] > 0.05


def test_a_task_without_a_damage_is_refused_but_for_given_photos(photos: Path) -> None:
    with pytest.raises(InvalidRequest, match="nothing damages photos for 'sharpen'"):
        measure(photos, "sharpen")
    report = evaluate_restoration(Options(("sharpen",), unpaired=photos, size=64), keep).report
    assert report["unpaired"]["sharpen"]["num_photos"] == 2


def test_the_page_is_one_file_with_every_part_and_other_pictures(
    photos: Path, tmp_path: Path
) -> None:
    shown = tmp_path / "shown"
    shown.mkdir()
    cv2.imwrite(
        str(shown / "astronaut.png"), cv2.imread(str(Path(data.data_dir) / "astronaut.png"))
    )
    tasks = ("derain", "dehaze", "rain")
    evaluation = measure(photos, *tasks, sequences=True, clean=True, show=shown)
    assert evaluation.report["tasks"]["derain"]["num_photos"] == 2
    for sections in evaluation.sections.values():
        for section in sections:
            assert len(section.photos) == 1
            assert "coffee" not in str([t.caption for t in section.photos[0]])
    path = tmp_path / "report" / "page.html"
    write_restoration_page(path, evaluation)
    text = path.read_text()
    for title in ("Damaged photos", "Added rain and snow", "Two damages", "Clean photos"):
        assert title in text
    assert text.count("<svg") == 1 and text.count("data:image/jpeg;base64,") == 6
    assert not re.search(r"(?:src|href)=\"(?!data:)", text.split("<svg")[0])
    json.dumps(evaluation.report)


def test_the_sheet_shows_input_output_baseline_and_truth(photos: Path, tmp_path: Path) -> None:
    def whiten(images: list[Pixels], plugins: tuple[str, ...]) -> list[Pixels]:
        return [np.full_like(image, 255) for image in images]

    sections = measure(photos, "lowlight", restore=whiten).sections["tasks"]
    draw_sheet(sections, tmp_path / "sheet.png")
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
        measure(photos, "derain", limit=0)
    with pytest.raises(FileNotFoundError):
        measure(tmp_path / "none", "derain")


def test_the_engine_restores_more_photos_than_fit_a_batch_and_keeps_their_order(
    tmp_path: Path,
) -> None:
    write_tiny_base(tmp_path)
    write_tiny_plugin(tmp_path, "derain", seed=1, default_steps=2)
    engine = build_engine(tmp_path, BASE, "cpu", max_batch_size=2, num_threads=1)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(5)]
    together = engine_restorer(engine)(images, ("derain",))
    for image, restored in zip(images, together, strict=True):
        engine.add(Edit("alone", image, ("derain",), seed=0))
        (alone,) = [u for _ in range(2) for u in engine.step() if isinstance(u, EditDone)]
        assert np.abs(alone.pixels.astype(int) - restored).max() <= 1
    with pytest.raises(UnknownPlugin):
        engine_restorer(engine)(images, ("absent",))
