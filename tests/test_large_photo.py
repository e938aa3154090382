"""A photo of twelve megapixels on the nano base: no seam along its tiles, and little memory."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from service.cli import main
from service.engine import large_refine
from service.engine.edit import Edit
from service.engine.engine import build_engine
from service.engine.large_photo import TILE_OVERLAP, TILE_SIDE
from service.engine.tiles import cut
from service.engine.updates import EditDone
from service.images import Pixels
from tests.test_image_fuzz import peak_bytes

STORE = Path(__file__).parent.parent / "plugins_store"
MAX_BYTES = 3 * 2**30
BOX_PX, SEGMENT_PX = 8, 128  # what is averaged across and along a border
SMOOTH_LEVELS = 1.5
NEAR = [BOX_PX * n * side for n in range(2, 10) for side in (-1, 1)]
MARGIN_PX = 90


def launch(width: int, height: int) -> NDArray[np.float32]:
    """The launch pad at night: a smooth sky, which would show a seam, and lights."""
    picture = Image.fromarray(data.rocket()).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(picture, np.float32) / 255


def dark_photo(width: int, height: int) -> Pixels:
    return with_noise(launch(width, height) ** 1.6 * 0.25, 0.012)


def with_noise(picture: NDArray[np.float32], sigma: float) -> Pixels:
    noise = np.random.default_rng(0).normal(0, sigma, picture.shape).astype(np.float32)
    return np.rint((picture + noise).clip(0, 1) * 255).astype(np.uint8)


def restore(pixels: Pixels, plugin: str, max_whole_pixels: int) -> Pixels:
    engine = build_engine(STORE, "nano", "cpu", 1, max_whole_pixels=max_whole_pixels)
    engine.add(Edit("large", pixels, (plugin,), steps=1, seed=1))
    while engine.has_work:
        for update in engine.step():
            if isinstance(update, EditDone):
                return update.pixels
    raise AssertionError("the edit did not end")


def borders_along(length: int) -> list[int]:
    """Of the tiles of both shifted copies and of the output stage's pieces."""
    axis = cut(-(-(length + 4) // 16) * 2, TILE_SIDE // 8, TILE_OVERLAP // 8, 2).scaled(8)
    ends = {*axis.starts[1:], *(start + axis.size for start in axis.starts[:-1])}
    pieces = range(large_refine.SIDE, length, large_refine.SIDE)
    borders = {*ends, *(end - 4 for end in ends), *pieces}
    return sorted(b for b in borders if MARGIN_PX < b < length - MARGIN_PX)


def step_scores(change: NDArray[np.float32], columns: list[int]) -> NDArray[np.float64]:
    """(columns, segments): how large the change's step at a column is, among those nearby.

    The change and not the result, because a photo has edges of its own; one is an average step. NaN
    where the steps nearby are large: a change follows an edge that it makes brighter.
    """
    num = change.shape[0] // SEGMENT_PX
    rows = change[: num * SEGMENT_PX].reshape(num, SEGMENT_PX, -1).mean(1)
    sums = np.concatenate([np.zeros((num, 1)), rows.cumsum(1)], 1) / BOX_PX

    def steps(at: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(sums[:, at + BOX_PX] - 2 * sums[:, at] + sums[:, at - BOX_PX]).T

    at = np.array(columns)
    nearby = np.sqrt((np.stack([steps(at + offset) for offset in NEAR]) ** 2).mean(0))
    return np.asarray(np.where(nearby < SMOOTH_LEVELS, np.abs(steps(at)) / nearby, np.nan))


def seams(before: Pixels, after: Pixels) -> dict[str, float]:
    """Steps at borders against those at all other places; of both the worst border's, too."""
    change = after.astype(np.float32).mean(-1) - before.astype(np.float32).mean(-1)
    at_borders, elsewhere = [], []
    for turned in (change, change.T):
        length = turned.shape[1]
        if not (borders := borders_along(length)):
            continue
        others = range(MARGIN_PX, length - MARGIN_PX, 4)
        far = [c for c in others if min(abs(c - b) for b in borders) > BOX_PX]
        at_borders.append(step_scores(turned, borders))
        elsewhere.append(step_scores(turned, far))
    found, usual = (
        _finite(np.concatenate([s.ravel() for s in parts])) for parts in (at_borders, elsewhere)
    )
    return {
        "smooth": len(usual) / sum(scores.size for scores in elsewhere),
        "mean": found.mean(),
        "mean_elsewhere": usual.mean(),
        "error_of_mean": usual.std() / len(found) ** 0.5,
        "worst": max(_worst(scores) for scores in at_borders),
        "worst_elsewhere": max(_worst(scores) for scores in elsewhere),
    }


def _finite(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return scores[np.isfinite(scores)]


def _worst(scores: NDArray[np.float64]) -> float:
    """The largest mean of a column of which at least a fourth of the photo's height is smooth."""
    judged = scores[np.isfinite(scores).mean(1) >= 0.25]
    return float(np.nanmean(judged, 1).max(initial=0.0))


def assert_no_seam(found: dict[str, float]) -> None:
    assert found["smooth"] > 0.2, found
    assert found["mean"] < found["mean_elsewhere"] + 3 * found["error_of_mean"], found
    assert found["worst"] < found["worst_elsewhere"], found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_seam_along_the_tiles_of_a_smaller_photo() -> None:
    photo = dark_photo(928, 520)
    restored = restore(photo, "lowlight", max_whole_pixels=300_000)
    assert restored.shape == (520, 928, 3)
    assert restored.mean() > 2 * photo.mean()
    assert_no_seam(seams(photo, restored))


def test_a_seam_of_half_a_level_would_be_seen() -> None:
    photo = with_noise(launch(1600, 1200), 0.03)
    smooth = np.asarray(Image.fromarray(photo).resize((400, 300)).resize((1600, 1200)), np.uint8)
    assert_no_seam(seams(photo, smooth))
    for border in (borders_along(1600)[3], large_refine.SIDE):
        stepped = smooth.copy()
        stepped[:, border:, :2] += 1  # of three channels, and their mean counts
        with pytest.raises(AssertionError):
            assert_no_seam(seams(photo, stepped))


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("plugin", ["lowlight", "restore", "rain"])
def test_twelve_megapixels_have_no_seam_and_take_less_than_three_gibibytes(
    plugin: str, tmp_path: Path
) -> None:
    """By the command line in a process of its own; two plugins have an output stage, one noise."""
    photo = dark_photo(4096, 3072) if plugin == "lowlight" else with_noise(launch(4096, 3072), 0.03)
    source, result = tmp_path / "photo.png", tmp_path / "restored.png"
    Image.fromarray(photo).save(source, compress_level=1)
    command = [sys.executable, "-m", "tests.test_large_photo", str(source), "--plugin", plugin]
    output = subprocess.run([*command, "-o", str(result)], check=True, stdout=subprocess.PIPE)
    figures = json.loads(output.stdout.splitlines()[-1])
    found = seams(photo, np.asarray(Image.open(result)))
    print(plugin, figures, found)
    assert figures["peak_gib"] * 2**30 < MAX_BYTES
    assert_no_seam(found)


if __name__ == "__main__":
    sys.argv.insert(1, "edit")
    began = time.monotonic()
    try:
        main()
    finally:
        cpu_s, seconds = time.process_time(), time.monotonic() - began
        print(json.dumps({"s": seconds, "cpu_s": cpu_s, "peak_gib": peak_bytes() / 2**30}))
