from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from service.evaluation.classical import (
    METHODS,
    classical_methods,
    dark_channel_prior,
    gamma_to_mean,
    guided_filter,
    inpaint_scratches,
    opening,
    richardson_lucy_deconvolution,
)
from service.evaluation.metrics import psnr, to_image
from service.training.degradations import TASKS, make_pair


def photo(name: str, size: int = 128) -> NDArray[np.float32]:
    pixels = cv2.imread(str(Path(data.data_dir) / name))[..., ::-1]
    side = min(pixels.shape[:2])
    return to_image(cv2.resize(pixels[:side, :side], (size, size), interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize("task", TASKS)
def test_every_method_returns_an_image_of_the_same_kind(task: str) -> None:
    image = make_pair(task, photo("coffee.png", 96), np.random.default_rng(0), 0.4).input
    original = image.copy()
    for name, run in classical_methods(task).items():
        result = run(image)
        assert result.shape == image.shape, name
        assert result.dtype == np.float32, name
        assert result.min() >= 0.0 and result.max() <= 1.0, name
    assert np.array_equal(image, original), "a method must not write into its input"


def test_every_removal_task_has_a_baseline() -> None:
    assert set(TASKS) - set(METHODS) == {"snow", "rain"}
    assert list(classical_methods("snow")) == ["none"]


def test_dark_channel_prior_clears_a_uniformly_hazy_photo() -> None:
    clean = photo("coffee.png")
    hazy = (clean * 0.45 + 0.92 * 0.55).astype(np.float32)
    assert psnr(dark_channel_prior(hazy), clean) > psnr(hazy, clean) + 5.0


def test_gamma_reaches_the_mean_it_is_asked_for() -> None:
    dark = photo("astronaut.png") ** 3
    brightened = gamma_to_mean(dark, mean=0.4)
    assert float((brightened @ [0.299, 0.587, 0.114]).mean()) == pytest.approx(0.4, abs=0.01)


def test_opening_removes_a_thin_bright_streak() -> None:
    image = np.full((32, 32, 3), 0.3, np.float32)
    image[4:28, 16] = 1.0
    assert np.allclose(opening(image, 5, 1), 0.3)


def test_guided_filter_keeps_the_step_of_its_guide_and_smooths_noise() -> None:
    step = np.zeros((64, 64), np.float32)
    step[:, 32:] = 1.0
    noisy = step + np.random.default_rng(0).normal(0, 0.1, step.shape).astype(np.float32)
    smooth = guided_filter(step, noisy, radius=8, eps=1e-4)
    assert np.abs(smooth - step).max() < 0.1
    assert np.abs(smooth - step).mean() < 0.3 * np.abs(noisy - step).mean()


def test_inpainting_fills_a_scratch() -> None:
    clean = cv2.GaussianBlur(photo("astronaut.png"), (0, 0), 4)
    scratched = clean.copy()
    cv2.line(scratched, (10, 20), (110, 90), (1.0, 1.0, 1.0), 1)
    assert psnr(inpaint_scratches(scratched), clean) > psnr(scratched, clean) + 6.0


def test_richardson_lucy_sharpens_the_blur_it_guesses() -> None:
    clean = photo("chelsea.png")
    blurred = cv2.GaussianBlur(clean, (0, 0), 1.5)
    restored = richardson_lucy_deconvolution(blurred, sigma=1.5, num_iter=8)
    assert psnr(restored, clean) > psnr(blurred, clean) + 0.8
