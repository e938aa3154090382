"""Files that are cut off, or more than a picture, are told from their bytes."""

import io
import zipfile

import pytest
from PIL import Image

from service.errors import InvalidImage
from service.image_whole import check_whole
from service.images import ImageLimits, check_files
from tests.test_image_fidelity import described_jpeg
from tests.test_images import file_of, picture

LIMITS = ImageLimits(10**6, 10**6, 1)
PNG, JPEG = (file_of(Image.fromarray(picture()), kind) for kind in ("PNG", "JPEG"))


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("run.sh", "echo")
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
    check_whole(PNG + b"\0\0\0\n")


def test_the_size_is_read_from_the_header_of_a_turned_picture() -> None:
    assert check_files(JPEG, b"", "png", LIMITS) == (40, 24)
    turned = described_jpeg()
    width, height = Image.open(io.BytesIO(turned)).size
    assert check_files(turned, b"", "png", LIMITS) == (height, width)
