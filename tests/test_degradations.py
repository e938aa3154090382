from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from service.evaluation.metrics import psnr, to_image
from service.training.degradations import GENERATION, MIXTURES, NAMES, REMOVAL, make_pair

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


@cache
def photo(name: str, size: int) -> NDArray[np.float32]:
    pixels = cv2.imread(str(Path(data.data_dir) / name))[..., ::-1]
    side = min(pixels.shape[:2])
    return to_image(cv2.resize(pixels[:side, :side], (size, size), interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize("task", NAMES)
def test_the_same_seed_gives_the_same_pair_and_another_seed_another(task: str) -> None:
    clean = photo("coffee.png", 96)
    first = make_pair(task, clean, np.random.default_rng(3), 0.5)
    again = make_pair(task, clean, np.random.default_rng(3), 0.5)
    other = make_pair(task, clean, np.random.default_rng(4), 0.5)
    assert np.array_equal(first.input, again.input)
    assert np.array_equal(first.target, again.target)
    changed = "target" if task in GENERATION else "input"
    assert not np.array_equal(getattr(first, changed), getattr(other, changed))


@pytest.mark.parametrize("task", NAMES)
@pytest.mark.parametrize(("height", "width"), [(96, 96), (80, 131)])
def test_pairs_are_unit_range_float32_images_of_the_same_shape(
    task: str, height: int, width: int
) -> None:
    clean = np.ascontiguousarray(photo("astronaut.png", 160)[:height, :width])
    for part in make_pair(task, clean, np.random.default_rng(0), 0.6):
        assert part.shape == clean.shape
        assert part.dtype == np.float32
        assert part.min() >= 0.0 and part.max() <= 1.0


@pytest.mark.parametrize("task", NAMES)
def test_every_task_changes_the_photo_and_leaves_the_clean_one_alone(task: str) -> None:
    clean = photo("astronaut.png", 128)
    original = clean.copy()
    for seed in range(4):
        pair = make_pair(task, clean, np.random.default_rng(seed), 0.5)
        assert psnr(pair.input, pair.target) < 40.0
    assert np.array_equal(clean, original)


@pytest.mark.parametrize("task", REMOVAL)
def test_removal_ends_at_the_clean_photo(task: str) -> None:
    clean = photo("chelsea.png", 96)
    assert make_pair(task, clean, np.random.default_rng(0)).target is clean


@pytest.mark.parametrize("task", GENERATION)
def test_generation_starts_at_the_clean_photo(task: str) -> None:
    clean = photo("chelsea.png", 96)
    pair = make_pair(task, clean, np.random.default_rng(0))
    assert pair.input is clean
    assert not np.array_equal(pair.target, clean)


@pytest.mark.parametrize("task", GENERATION)
def test_weather_falls_where_the_noise_is_low_and_nowhere_else(task: str) -> None:
    clean = photo("coffee.png", 96)
    calm = np.zeros_like(clean)
    low = calm.copy()
    low[48, 48] = -6.0
    change = np.abs(GENERATION[task](clean, low) - GENERATION[task](clean, calm)).max(axis=2)
    assert change[48, 48] > 0.05
    assert change[:30].max() == change[:, :40].max() == 0.0


def test_colorize_gets_a_grey_photo() -> None:
    grey = make_pair("colorize", photo("coffee.png", 96), np.random.default_rng(0)).input
    assert np.ptp(grey, axis=2).max() == 0.0


def test_restore_asks_for_grey_from_grey_prints_and_colour_from_colour_prints() -> None:
    clean = photo("coffee.png", 96)
    spreads = [
        float(np.ptp(make_pair("restore", clean, np.random.default_rng(s)).target, axis=2).max())
        for s in range(12)
    ]
    assert any(spread < 1e-5 for spread in spreads)
    assert any(spread > 0.1 for spread in spreads)


@pytest.mark.parametrize(
    ("task", "at_most_db"),
    [
        ("derain", 20.0),
        ("desnow", 20.0),
        ("dehaze", 15.0),
        ("lowlight", 11.0),
        ("deblur", 27.0),
        ("demoire", 22.0),
        ("highlight", 22.0),
        ("restore", 19.0),
    ],
)
def test_inputs_are_hard_enough_to_matter(task: str, at_most_db: float) -> None:
    """These four photos are smoother than most: blur and stripes cost them less."""
    values = []
    for name in PHOTOS:
        for seed in range(3):
            pair = make_pair(task, photo(name, 256), np.random.default_rng(seed), 1.0)
            values.append(psnr(pair.input, pair.target))
    assert np.mean(values) < at_most_db


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_is_harder_than_the_first_of_its_damages(name: str) -> None:
    clean = photo("coffee.png", 256)
    task = name.split("+")[0]
    mixed, alone = (
        np.mean([psnr(*make_pair(each, clean, np.random.default_rng(seed))) for seed in range(6)])
        for each in (name, task)
    )
    # Darkness costs so much that noise hardly shows before the photo is brightened.
    assert mixed < alone + (1.0 if name == "lowlight+noise" else -2.0)


def test_jpeg_leaves_edges_between_its_blocks() -> None:
    seen = make_pair("dejpeg", photo("chelsea.png", 256), np.random.default_rng(1)).input
    steps = np.abs(np.diff(seen, axis=1)).mean(axis=(0, 2))
    across = steps[7::8].mean()
    assert across > 1.3 * np.delete(steps, np.arange(7, 255, 8)).mean()


def test_blur_varies_over_the_frame() -> None:
    """Of a grid of dots, each of which one kernel would smear alike, some smear less."""
    dots = np.zeros((256, 256, 3), np.float32)
    dots[24:240:52, 24:240:52] = 1.0
    spreads = []
    for seed in range(12):
        blurred = make_pair("deblur", dots, np.random.default_rng(seed)).input
        peaks = [
            blurred[y - 20 : y + 21, x - 20 : x + 21].max()
            for y in range(24, 240, 52)
            for x in range(24, 240, 52)
        ]
        spreads.append(max(peaks) / min(peaks))
    assert np.median(spreads) > 1.3


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="derain"):
        make_pair("unknown", photo("coffee.png", 96), np.random.default_rng(0))
