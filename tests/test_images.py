"""Image files in: every broken one is refused with the right error, none is decoded too far."""

import contextlib
import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from service.errors import ClientError, ImageTooLarge, InvalidImage, UnsupportedImageType
from service.images import ImageLimits, decode, encode, media_type

LIMITS = ImageLimits(max_bytes=1_000_000, max_pixels=100_000, min_side=16)


def picture(width: int = 40, height: int = 24) -> np.ndarray:
    ramp = np.linspace(0, 255, width, dtype=np.uint8)
    rows = np.broadcast_to(ramp, (height, width))
    return np.stack([rows, rows[:, ::-1], np.full_like(rows, 90)], axis=-1)


def file_of(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def png_with_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has width x height pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(10_000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF"])
def test_lossless_files_decode_to_their_pixels(image_format: str) -> None:
    data = file_of(Image.fromarray(picture()), image_format)
    np.testing.assert_array_equal(decode(data, LIMITS), picture())


def test_png_survives_encode_and_decode() -> None:
    data = encode(picture(), "png")
    assert media_type(data) == "image/png"
    np.testing.assert_array_equal(decode(data, LIMITS), picture())


@pytest.mark.parametrize(
    ("output_format", "expected"), [("jpeg", "image/jpeg"), ("webp", "image/webp")]
)
def test_lossy_formats_stay_close(output_format: str, expected: str) -> None:
    data = encode(picture(), output_format)
    assert media_type(data) == expected
    difference = decode(data, LIMITS).astype(int) - picture()
    assert np.abs(difference).mean() < 8


def test_exif_orientation_turns_the_pixels_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: rotate 90 degrees clockwise to view
    data = file_of(Image.fromarray(picture(40, 24)), "PNG", exif=exif)
    np.testing.assert_array_equal(decode(data, LIMITS), np.rot90(picture(40, 24), k=-1))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK", "I;16"])
def test_every_pixel_mode_becomes_rgb(mode: str) -> None:
    source = Image.new(mode, (32, 32))
    data = file_of(source, "TIFF" if mode == "CMYK" else "PNG")
    assert decode(data, LIMITS).shape == (32, 32, 3)


def test_empty_file_is_refused() -> None:
    with pytest.raises(InvalidImage, match="0 bytes"):
        decode(b"", LIMITS)


def test_text_is_not_an_image() -> None:
    with pytest.raises(UnsupportedImageType, match="send one of PNG, JPEG"):
        decode(b"To be, or not to be, that is the question", LIMITS)


def test_gif_is_not_served() -> None:
    with pytest.raises(UnsupportedImageType):
        decode(file_of(Image.new("P", (32, 32)), "GIF"), LIMITS)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_truncated_file_is_damaged(image_format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = file_of(Image.fromarray(noise), image_format)
    with pytest.raises((InvalidImage, UnsupportedImageType)):
        decode(data[: len(data) // 2], LIMITS)


def test_decompression_bomb_is_refused_from_its_header() -> None:
    with pytest.raises(ImageTooLarge, match="too many pixels"):
        decode(png_with_header(20_000, 20_000), LIMITS)


def test_a_few_pixels_too_many_are_refused() -> None:
    with pytest.raises(ImageTooLarge, match="400x300 pixels; at most 100000"):
        decode(encode(picture(400, 300), "png"), LIMITS)


def test_too_many_bytes_are_refused() -> None:
    with pytest.raises(ImageTooLarge, match="at most 1000000"):
        decode(bytes(1_000_001), LIMITS)


def test_tiny_image_is_refused() -> None:
    with pytest.raises(InvalidImage, match="each side must be at least 16"):
        decode(encode(picture(40, 15), "png"), LIMITS)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
@pytest.mark.filterwarnings("ignore")
def test_mutated_files_decode_or_are_client_errors(image_format: str) -> None:
    chance = random.Random(7)
    good = file_of(Image.fromarray(picture()), image_format)
    for _ in range(150):
        data = bytearray(good)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with contextlib.suppress(ClientError):
            decode(bytes(data[: chance.randint(1, len(data))]), LIMITS)
