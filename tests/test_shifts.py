"""Shifted copies of a photo: they come back where they were, and hide what is tied to the grid."""

import numpy as np
import pytest
import torch

from service.engine.shifts import merge_views, offsets, shifted_views


@pytest.mark.parametrize("num_shifts", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(16, 16), (17, 30), (33, 64)])
def test_views_merge_to_the_photo(num_shifts: int, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    shifts = offsets(num_shifts, patch_size=8)
    views = shifted_views(pixels, shifts, multiple=16)
    assert len(views) == num_shifts
    assert views.shape[2] % 16 == 0 and views.shape[3] % 16 == 0
    merged = (merge_views(views, shifts, size) + 1) * 127.5
    np.testing.assert_allclose(merged.permute(1, 2, 0).numpy(), pixels, atol=1e-3)


def test_an_error_at_patch_borders_is_halved_by_two_shifts() -> None:
    pixels = np.full((64, 64, 3), 128, np.uint8)
    borders = torch.zeros(64 + 16, 64 + 16)
    borders[::8] = 1.0

    def error(num_shifts: int) -> float:
        shifts = offsets(num_shifts, patch_size=8)
        views = shifted_views(pixels, shifts, multiple=16)
        damaged = views + borders[: views.shape[2], : views.shape[3]]
        merged = merge_views(damaged, shifts, (64, 64))
        return float((merged - views[0, 0, 0, 0]).abs().max())

    assert error(2) == pytest.approx(error(1) / 2, abs=1e-3)


def test_shifts_are_halves_of_a_patch() -> None:
    assert offsets(1, 8) == [(0, 0)]
    assert offsets(4, 8) == [(0, 0), (4, 4), (0, 4), (4, 0)]
