"""Masks: what is black stays bit-exact, what is white is edited, the edge between is soft."""

import io

import numpy as np
import pytest
from PIL import Image

from service.errors import ClientError, InvalidRequest
from service.image_16_bits import write_png_16
from service.image_mask import feather
from service.images import Output, read_mask, read_photo, write_photo
from tests import icc_profiles
from tests.test_image_fidelity import DEEP, LIMITS
from tests.test_images import file_of, picture

WHITE_LEFT = np.zeros((20, 24), np.uint8)
WHITE_LEFT[:, :12] = 255


def encode_mask(values: np.ndarray) -> bytes:
    return file_of(Image.fromarray(values), "PNG")


@pytest.mark.parametrize("profile", [b"", icc_profiles.display_p3()], ids=["srgb", "p3"])
@pytest.mark.parametrize("depth", [8, 16])
def test_unmasked_samples_are_bit_exact(profile: bytes, depth: int) -> None:
    if depth == 16:
        data = write_png_16(DEEP, profile)
    else:
        data = file_of(Image.fromarray((DEEP >> 8).astype(np.uint8)), "PNG", icc_profile=profile)
    photo = read_photo(data, LIMITS)
    mask = read_mask(encode_mask(WHITE_LEFT), LIMITS, photo.shape)
    result = read_photo(write_photo(photo, 1 - photo.unchanged, Output(), (), mask), LIMITS)
    np.testing.assert_array_equal(result.samples[:, 12:], photo.samples[:, 12:])
    np.testing.assert_array_equal(result.alpha, photo.alpha)
    inside = 1 - photo.unchanged[:, :4]
    assert np.abs(result.unchanged[:, :4] - inside).mean() < (0.1 if profile else 0.01)


def test_the_edge_is_soft_and_lies_inside_of_the_white() -> None:
    weights = feather(Image.fromarray(WHITE_LEFT))
    assert weights[10, 12:].max() == 0
    assert weights[10, :4].min() > 0.95
    steps = -np.diff(weights[10, :13])
    assert steps.min() >= 0 and steps.max() < 0.5


@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_thin_scratch_is_edited_at_its_core(width: int) -> None:
    scratch = np.zeros((40, 40), np.uint8)
    scratch[:, 20 : 20 + width] = 255
    weights = feather(Image.fromarray(scratch))
    assert weights[20].max() > 0.9


def test_grey_weighs_in_between() -> None:
    weights = feather(Image.fromarray(np.full((20, 20), 102, np.uint8)))
    np.testing.assert_allclose(weights, 0.4, atol=1e-6)


def test_the_mask_is_of_the_upright_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = read_photo(file_of(Image.fromarray(picture(40, 24)), "PNG", exif=exif), LIMITS)
    upright = encode_mask(np.full((40, 24), 255, np.uint8))
    assert read_mask(upright, LIMITS, photo.shape).shape == (40, 24)
    with pytest.raises(InvalidRequest, match="the mask has 40x24 pixels .* 24x40"):
        read_mask(encode_mask(np.full((24, 40), 255, np.uint8)), LIMITS, photo.shape)


def test_a_mask_that_edits_nothing_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="all black"):
        read_mask(encode_mask(np.zeros((20, 20), np.uint8)), LIMITS, (20, 20))


def test_a_broken_mask_is_a_client_error() -> None:
    with pytest.raises(ClientError):
        read_mask(encode_mask(WHITE_LEFT)[:60], LIMITS, (20, 24))


def test_a_result_in_another_size_takes_the_photo_its_alpha_and_the_mask_along() -> None:
    """The reference preset answers in the network's size."""
    rgba = np.full((40, 60, 4), (200, 100, 50, 255), np.uint8)
    rgba[:, 30:, 3] = 0
    photo = read_photo(file_of(Image.fromarray(rgba), "PNG"), LIMITS)
    mask = np.zeros((40, 60), np.float32)
    mask[:20] = 1
    data = write_photo(photo, np.zeros((20, 30, 3), np.float32), mask=mask)
    result = np.asarray(Image.open(io.BytesIO(data)))
    assert result.shape == (20, 30, 4)
    assert (result[2, :, :3] == 0).all() and (result[-2, :, :3] == (200, 100, 50)).all()
    assert (result[:, 2, 3] == 255).all() and (result[:, -2, 3] == 0).all()
