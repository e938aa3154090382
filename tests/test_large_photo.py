"""A photo of twelve megapixels on the nano base: no seam along its tiles, and little memory."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from service.engine.edit import Edit
from service.engine.engine import build_engine
from service.engine.large_photo import TILE_OVERLAP, TILE_SIDE
from service.engine.tiles import cut
from service.engine.updates import EditDone
from service.images import Pixels

STORE = Path(__file__).parent.parent / "plugins_store"
MAX_BYTES = 3 * 2**30
NEAR_PX = 60


def dark_photo(width: int, height: int) -> Pixels:
    """The launch pad at night: a smooth sky, which would show a seam, and lights; with noise."""
    launch = Image.fromarray(data.rocket()).resize((width, height), Image.Resampling.LANCZOS)
    dark = (np.asarray(launch, np.float32) / 255) ** 1.6 * 0.25
    noise = np.random.default_rng(0).normal(0, 0.012, dark.shape)
    return np.rint((dark + noise).clip(0, 1) * 255).astype(np.uint8)


def restore(pixels: Pixels, max_whole_pixels: int, **options: int) -> Pixels:
    engine = build_engine(STORE, "nano", "cpu", 1, max_whole_pixels=max_whole_pixels)
    engine.add(Edit("large", pixels, ("lowlight",), seed=1, **options))
    while engine.has_work:
        for update in engine.step():
            if isinstance(update, EditDone):
                return update.pixels
    raise AssertionError("the edit did not end")


def seam_scores(restored: Pixels, length: int) -> list[float]:
    """At both borders of every tile along the columns: how far the mean step there lies above
    those nearby, in their standard deviations.
    """
    axis = cut(-(-(length + 4) // 16) * 2, TILE_SIDE // 8, TILE_OVERLAP // 8, 2).scaled(8)
    borders = {*axis.starts[1:], *(start + axis.size for start in axis.starts[:-1])}
    steps = np.abs(np.diff(restored.astype(np.float32).mean(-1), axis=1)).mean(0)
    scores = []
    for border in borders:
        for column in (border, border - 4):  # of each of the two shifted copies
            # The codec's own grid of 8 pixels: like is compared with like.
            near = [
                *range(column - NEAR_PX, column - 7, 4),
                *range(column + 8, column + NEAR_PX, 4),
            ]
            like = steps[np.array([c for c in near if 0 < c < length]) - 1]
            scores.append(float((steps[column - 1] - like.mean()) / like.std()))
    return scores


def assert_no_seam(restored: Pixels) -> None:
    height, width = restored.shape[:2]
    scores = seam_scores(restored, width) + seam_scores(restored.transpose(1, 0, 2), height)
    assert max(scores) < 3, scores


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_seam_along_the_tiles_of_a_smaller_photo() -> None:
    restored = restore(dark_photo(800, 560), max_whole_pixels=300_000, steps=1)
    assert restored.shape == (560, 800, 3)
    assert restored.mean() > 2 * dark_photo(800, 560).mean()
    assert_no_seam(restored)


@pytest.mark.full
@pytest.mark.timeout(7200)
def test_twelve_megapixels_have_no_seam_and_take_less_than_three_gibibytes(tmp_path: Path) -> None:
    """In a process of its own, whose memory is nobody else's."""
    result = tmp_path / "restored.npy"
    subprocess.run([sys.executable, "-m", "tests.test_large_photo", str(result)], check=True)
    assert_no_seam(np.load(result))
    peak = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert peak < MAX_BYTES, f"{peak / 2**30:.2f} GiB"


if __name__ == "__main__":
    np.save(sys.argv[1], restore(dark_photo(4096, 3072), 1_500_000))
