"""Colours match: the model sees sRGB, the result comes back in the file's own colour space."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from service.image_16_bits import write_png_16
from service.image_colour import parse_profile
from service.images import Output, decode, read_photo, write_photo
from tests import icc_profiles
from tests.test_image_fidelity import DEEP, LIMITS, brighter
from tests.test_images import file_of, picture

COLOURS = np.random.default_rng(2).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def with_profile(profile: bytes, pixels: np.ndarray = COLOURS, image_format: str = "PNG") -> bytes:
    return file_of(Image.fromarray(pixels), image_format, icc_profile=profile)


def by_lcms(pixels: np.ndarray, profile: bytes) -> np.ndarray:
    """sRGB, as another implementation has it."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    image = Image.fromarray(pixels)
    return np.asarray(ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB")))


@pytest.mark.parametrize(
    "profile",
    [
        icc_profiles.display_p3(),
        icc_profiles.matrix_profile(icc_profiles.P3_COLORANTS, (1.8, 1, 0, 0, 0)),
    ],
    ids=["display-p3", "gamma-1.8"],
)
def test_the_model_sees_what_lcms_makes_of_the_profile(profile: bytes) -> None:
    seen = decode(with_profile(profile), LIMITS).astype(int)
    assert np.abs(seen - by_lcms(COLOURS, profile)).max() <= 2
    assert np.abs(seen - COLOURS).mean() > 5


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp", "avif", "tiff"])
def test_the_profile_is_embedded_again_and_the_values_are_its_own(output_format: str) -> None:
    profile = icc_profiles.display_p3()
    photo = read_photo(with_profile(profile, picture()), LIMITS)
    with Image.open(
        io.BytesIO(write_photo(photo, photo.unchanged, Output(output_format)))
    ) as image:
        assert image.info["icc_profile"] == profile
        values = np.asarray(image.convert("RGB")).astype(int)
    tolerance = 0 if output_format in ("png", "tiff") else 8
    assert np.abs(values - picture()).mean() <= tolerance


def test_colours_outside_of_srgb_survive_an_edit() -> None:
    green = np.zeros((16, 16, 3), np.uint8)
    green[..., 1] = 255
    photo = read_photo(with_profile(icc_profiles.display_p3(), green), LIMITS)
    np.testing.assert_array_equal(
        read_photo(write_photo(photo, photo.unchanged), LIMITS).samples, green
    )


def test_an_edit_is_the_same_edit_in_either_colour_space() -> None:
    muted = (96 + COLOURS // 4).astype(np.uint8)
    photo = read_photo(with_profile(icc_profiles.display_p3(), muted), LIMITS)
    result = write_photo(photo, brighter(photo, 0.1))
    expected = np.rint(255 * brighter(photo, 0.1)).astype(int)
    difference = np.abs(decode(result, LIMITS) - expected)  # of two roundings, one in each space
    assert difference.max() <= 2 and difference.mean() < 0.75


def test_16_bits_of_display_p3_come_back() -> None:
    profile = icc_profiles.display_p3()
    photo = read_photo(write_png_16(DEEP, profile), LIMITS)
    again = read_photo(write_photo(photo, photo.unchanged), LIMITS)
    assert again.icc_profile == profile
    np.testing.assert_array_equal(again.samples, photo.samples)


def test_an_srgb_profile_changes_no_value_and_comes_back() -> None:
    for profile in (
        icc_profiles.srgb(),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    ):
        photo = read_photo(with_profile(profile), LIMITS)
        np.testing.assert_array_equal(photo.pixels, COLOURS)
        assert photo.icc_profile == profile


def test_a_grey_profile_is_honoured_and_leaves_formats_without_grey() -> None:
    grey, profile = picture()[..., 0], icc_profiles.grey_gamma(1.0)
    photo = read_photo(with_profile(profile, grey), LIMITS)
    assert photo.pixels[0, 20, 0] > grey[0, 20] + 40
    for output_format, keeps in (("png", True), ("webp", False)):
        result = write_photo(photo, photo.unchanged, Output(output_format))
        assert (read_photo(result, LIMITS).icc_profile == profile) == keeps
        assert np.abs(decode(result, LIMITS).astype(int) - photo.pixels).mean() < 2


@pytest.mark.parametrize(
    "profile", [b"no profile", icc_profiles.display_p3()[:200], icc_profiles.grey_gamma(2.2)]
)
def test_a_profile_that_is_damaged_or_of_other_channels_is_left_out(profile: bytes) -> None:
    photo = read_photo(with_profile(profile), LIMITS)
    np.testing.assert_array_equal(photo.pixels, COLOURS)
    assert photo.icc_profile == b""


def test_a_profile_of_another_kind_is_converted_to_srgb_for_good() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert parse_profile(lab) is None
    assert read_photo(with_profile(lab), LIMITS).icc_profile == b""
