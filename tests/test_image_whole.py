"""Files that are cut off, or more than a picture, are told from their bytes."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from service.errors import InvalidImage, UnsupportedImageType
from service.image_whole import check_whole
from service.images import ImageLimits, check_files, read_photo
from tests.test_image_fidelity import described_jpeg
from tests.test_images import file_of, picture

LIMITS = ImageLimits(10**6, 10**6, 1)
PNG, JPEG = (file_of(Image.fromarray(picture()), kind) for kind in ("PNG", "JPEG"))


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("run.sh", "echo")
        file.comment = b"a comment"
    return buffer.getvalue()


@pytest.mark.parametrize("data", [PNG, JPEG, described_jpeg()], ids=["png", "jpeg", "described"])
def test_whole_pictures_pass_and_any_cut_is_noticed(data: bytes) -> None:
    check_whole(data)
    for num_bytes in (len(data) - 1, len(data) // 2, 40):
        with pytest.raises(InvalidImage, match="truncated"):
            check_whole(data[:num_bytes])


@pytest.mark.parametrize(
    "rest",
    [archive(), b"%PDF-1.7 ...", b"<HTML><script>", b"<?php system($x); ?>", b"\x7fELF\x02"],
    ids=["zip", "pdf", "html", "php", "elf"],
)
@pytest.mark.parametrize("picture_file", [PNG, JPEG], ids=["png", "jpeg"])
def test_polyglots_are_refused(picture_file: bytes, rest: bytes) -> None:
    with pytest.raises(InvalidImage, match="appended|at once"):
        check_files(picture_file + rest, b"", "png", LIMITS)


def test_what_phones_append_is_let_through() -> None:
    check_whole(JPEG + JPEG)  # a gain map
    check_whole(JPEG + b"\0\0SEFT")
    film = b"\0\0\0\x18ftypmp42" + np.random.default_rng(0).bytes(2**22) + b"MZ\x90#!/<html>"
    check_whole(JPEG + film)
    check_whole(PNG + b"\0\0\0\n")


def with_text(text: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", text)
    return file_of(Image.fromarray(picture()), "PNG", pnginfo=info)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (with_text("%PDF-1.7"), "a PDF"),
        (with_text("<SCRIPT>alert(1)</SCRIPT>"), "HTML"),
        (with_text("<!DOCTYPE  html>"), "HTML"),
        (PNG + archive(), "a ZIP archive"),
        (PNG + b"<?php system($_GET[0]); ?>", "PHP"),
        (JPEG + b"Rar!\x1a\x07\x01\x00", "RAR"),
    ],
)
def test_a_polyglot_is_refused_by_its_kind(data: bytes, kind: str) -> None:
    assert Image.open(io.BytesIO(data)).size == (40, 24)  # it is an image as well
    with pytest.raises(InvalidImage, match=kind):
        read_photo(data, LIMITS)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "AVIF"])
def test_a_picture_is_none(name: str) -> None:
    check_whole(file_of(Image.fromarray(picture()), name))


def test_bytes_that_only_look_like_the_end_of_an_archive_are_let_through() -> None:
    check_whole(JPEG + b"PK\x05\x06" + bytes(100))
    check_whole(JPEG + b"PK\x05\x06")


def test_what_is_no_image_at_all_is_called_that() -> None:
    with pytest.raises(UnsupportedImageType, match="not an image"):
        read_photo(b"%PDF-1.7 and so on", LIMITS)


def test_the_size_is_read_from_the_header_of_a_turned_picture() -> None:
    assert check_files(JPEG, b"", "png", LIMITS) == (40, 24)
    turned = described_jpeg()
    width, height = Image.open(io.BytesIO(turned)).size
    assert check_files(turned, b"", "png", LIMITS) == (height, width)


@pytest.mark.parametrize("mark", [b"<?php", b"Rar!\x1a\x07", b"7z\xbc\xaf\x27\x1c"])
@pytest.mark.parametrize("at", [0, 1, 2, 3, 40])
def test_marks_are_found_wherever_they_begin_and_only_whole(mark: bytes, at: int) -> None:
    for filling in (b"\0", mark[:-1]):  # the second has more halves of marks than are looked at
        around = (filling * 5000)[: 5000 * len(filling) // 2 * 2]
        check_whole(JPEG + bytes(at) + around)
        with pytest.raises(InvalidImage, match="at once"):
            check_whole(JPEG + bytes(at) + mark + around)
        with pytest.raises(InvalidImage, match="at once"):
            check_whole(JPEG + bytes(at) + around + mark)
