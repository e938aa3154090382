"""Files that are an image and something else are refused before they are decoded."""

import io
import zipfile

import pytest
from PIL import Image, PngImagePlugin

from service.errors import InvalidImage
from service.image_polyglots import other_kind
from service.images import ImageLimits, read_photo
from tests.test_images import file_of

LIMITS = ImageLimits(max_bytes=10**6, max_pixels=10**6, min_side=8)
PICTURE = Image.effect_noise((64, 48), 80).convert("RGB")


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("payload.txt", "hello")
        file.comment = b"a comment"
    return buffer.getvalue()


def with_text(text: str) -> bytes:
    buffer, info = io.BytesIO(), PngImagePlugin.PngInfo()
    info.add_text("Comment", text)
    PICTURE.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (file_of(PICTURE, "PNG") + archive(), "a ZIP archive"),
        (file_of(PICTURE, "JPEG") + archive(), "a ZIP archive"),
        (with_text("%PDF-1.7"), "a PDF"),
        (with_text("<SCRIPT>alert(1)</SCRIPT>"), "HTML"),
        (with_text("<!DOCTYPE  html>"), "HTML"),
        (file_of(PICTURE, "PNG") + b"<?php system($_GET[0]); ?>", "PHP"),
        (file_of(PICTURE, "JPEG") + b"Rar!\x1a\x07\x01\x00", "RAR"),
    ],
)
def test_a_polyglot_is_refused_by_its_kind(data: bytes, kind: str) -> None:
    assert Image.open(io.BytesIO(data)).size == (64, 48)  # it is an image as well
    with pytest.raises(InvalidImage, match=kind):
        read_photo(data, LIMITS)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "AVIF"])
def test_a_picture_is_not(name: str) -> None:
    assert other_kind(file_of(PICTURE, name)) is None


def test_bytes_that_only_look_like_the_end_of_an_archive_are_let_through() -> None:
    assert other_kind(file_of(PICTURE, "PNG") + b"PK\x05\x06" + bytes(100)) is None
    assert other_kind(b"PK\x05\x06") is None
