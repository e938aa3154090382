"""What a plugin is trained on: a table of pairs, and windows cut from both pictures of a pair."""

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from service.errors import InvalidRequest
from service.training.photos import CropSettings
from service.training.plugin_data import PairCrops, PhotoPair, TablePairs, read_pairs


def write(path: Path, value: int, size: tuple[int, int] = (40, 48)) -> None:
    ramp = np.linspace(0, 100, size[1], dtype=np.uint8)[None, :, None]
    cv2.imwrite(str(path), np.broadcast_to(ramp, (*size, 3)) + np.uint8(value))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(2):
        write(tmp_path / f"wet_{number}.png", 60)
        write(tmp_path / f"dry_{number}.png", 20)
    return tmp_path


def table(folder: Path, text: str) -> Path:
    path = folder / "pairs.csv"
    path.write_text(text)
    return path


def test_files_are_found_beside_the_table_with_a_header_or_without(folder: Path) -> None:
    lines = "wet_0.png,dry_0.png\nwet_1.png, dry_1.png\n\n"
    assert len(read_pairs(table(folder, lines))) == 2
    pairs = read_pairs(table(folder, "input,target\n" + lines))
    assert len(pairs) == 2
    assert (pairs[0].input.astype(int) - pairs[0].target == 40).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no pairs"),
        ("input,target\n", "has no pairs"),
        ("wet_0.png\n", ":1 needs two columns"),
        ("wet_0.png,dry_0.png\nwet_1.png,gone.png\n", ":2: .*gone.png"),
        ("wet_0.png,small.png\n", "input is 48x40, target 20x20"),
    ],
)
def test_a_wrong_table_is_refused_with_the_line(folder: Path, text: str, message: str) -> None:
    write(folder / "small.png", 0, (20, 20))
    with pytest.raises(InvalidRequest, match=message):
        read_pairs(table(folder, text))


@pytest.mark.parametrize("size", [32, 64])
def test_crops_are_the_same_window_of_input_and_target(folder: Path, size: int) -> None:
    pairs = read_pairs(table(folder, "wet_0.png,dry_0.png\n"))
    crops = PairCrops(pairs, CropSettings(size, clean_share=0.0), seed=(0,))
    starts = set()
    for damaged, truth, task in islice(crops, 20):
        assert damaged.shape == truth.shape == (3, size, size) and task == 0
        assert ((damaged - truth) * 127.5 - 40).abs().max() < 1.01
        starts.add(round(float(truth[0, 0, 0]), 3))
    assert len(starts) > 1


def test_some_crops_are_clean_on_both_sides(folder: Path) -> None:
    damaged, truth = (np.full((32, 32, 3), value, np.uint8) for value in (90, 50))
    pairs = [PhotoPair("grey", damaged, truth)]
    crops = PairCrops(pairs, CropSettings(16, clean_share=0.5), seed=(0,))
    clean = [bool((damaged == truth).all()) for damaged, truth, _ in islice(crops, 60)]
    assert 15 < sum(clean) < 45


def test_whole_pictures_are_there_for_the_sheet(folder: Path) -> None:
    data = TablePairs(table(folder, "wet_0.png,dry_0.png\nwet_1.png,dry_1.png\n"), "derain")
    samples = data.samples(24)
    assert [sample.pair.input.shape for sample in samples] == [(24, 24, 3)] * 2
    assert "2 pairs of `pairs.csv`" in data.description
