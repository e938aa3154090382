import math

import numpy as np
import pytest

from service.evaluation.metrics import (
    MAX_PSNR_DB,
    ciede2000,
    mean_psnr,
    psnr,
    ssim,
    to_image,
    to_pixels,
)


def test_identical_images_have_infinite_psnr_ssim_one_and_no_colour_difference() -> None:
    image = np.random.default_rng(0).random((48, 40, 3), dtype=np.float32)
    assert psnr(image, image) == math.inf
    assert ssim(image, image) == pytest.approx(1.0)
    assert ciede2000(image, image) == pytest.approx(0.0)


def test_psnr_of_a_uniform_error_of_one_tenth_is_20_db() -> None:
    truth = np.full((16, 16, 3), 0.5, np.float32)
    assert psnr(truth + np.float32(0.1), truth) == pytest.approx(20.0, abs=1e-4)


def test_mean_psnr_stays_finite_when_a_pair_is_identical() -> None:
    assert mean_psnr([math.inf, 20.0]) == (MAX_PSNR_DB + 20.0) / 2


def test_ssim_punishes_noise_and_is_symmetric() -> None:
    rng = np.random.default_rng(1)
    ramp = np.linspace(0, 1, 64, dtype=np.float32)
    truth = np.repeat(np.outer(ramp, ramp)[..., None], 3, axis=2)
    weak = np.clip(truth + rng.normal(0, 0.02, truth.shape), 0, 1).astype(np.float32)
    strong = np.clip(truth + rng.normal(0, 0.2, truth.shape), 0, 1).astype(np.float32)
    assert ssim(strong, truth) < ssim(weak, truth) < 1.0
    assert ssim(weak, truth) == pytest.approx(ssim(truth, weak))


def test_ciede2000_of_white_and_black_is_100() -> None:
    white, black = np.ones((8, 8, 3), np.float32), np.zeros((8, 8, 3), np.float32)
    assert ciede2000(white, black) == pytest.approx(100.0, abs=0.1)


def test_pixels_survive_the_way_to_an_image_and_back() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    assert np.array_equal(to_pixels(to_image(pixels)), pixels)
