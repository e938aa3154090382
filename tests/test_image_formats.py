"""The table of formats in docs/api.md holds, row by row."""

import io
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image

from service.errors import UnsupportedImageType
from service.image_16_bits import write_png_16
from service.image_files import format_of, open_file
from service.image_metadata import Metadata
from service.images import Output, Photo, decode, media_type, read_photo, write_photo
from tests import icc_profiles
from tests.test_image_fidelity import IPTC, LIMITS, XMP, exif_of
from tests.test_images import file_of, picture

DOCS = Path(__file__).parent.parent / "docs" / "api.md"
MEDIA_TYPES = {
    "PNG": "image/png", "JPEG": "image/jpeg", "WebP": "image/webp", "AVIF": "image/avif",
    "TIFF": "image/tiff", "BMP": "image/bmp", "HEIC": "image/heic",
}  # fmt: skip
DEEP = (picture(40, 24).astype(np.uint16) * 257) ^ 5  # its low bytes are no copies
UPRIGHT_XMP = XMP.replace(b'"6"', b'"1"')
ALPHA = np.full((24, 40, 1), 40_000, np.uint16)


@dataclass(frozen=True)
class Row:
    name: str
    bits_read: tuple[int, ...]
    output_format: str
    bits_written: tuple[int, ...]
    is_lossless: bool
    has_alpha: bool
    has_metadata: bool
    has_iptc: bool


def table() -> list[Row]:
    section = DOCS.read_text().split("### Formats")[1].split("\n\n")[0]
    lines = section.strip().splitlines()[2:]
    return [row_of(*(cell.strip(" `") for cell in line.split("|")[1:-1])) for line in lines]


def row_of(name: str, read: str, output_format: str, written: str, *said: str) -> Row:
    bits = (tuple(int(n) for n in cell.split(",") if n) for cell in (read, written))
    return Row(name, next(bits), output_format, next(bits), *(cell == "yes" for cell in said))


TABLE = table()
WRITTEN = [row for row in TABLE if row.output_format]


def heic_of(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(buffer, quality=95, **options)
    return buffer.getvalue()


def input_of(name: str, bits: int) -> bytes:
    if bits == 16 and name == "TIFF":
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, DEEP, photometric="rgb")
        return buffer.getvalue()
    if bits == 16:
        return write_png_16(DEEP)
    return heic_of(picture()) if name == "HEIC" else file_of(Image.fromarray(picture()), name)


def everything(bits: int) -> Photo:
    """A photo that has all that a file may carry."""
    samples, alpha = DEEP, ALPHA
    if bits == 8:
        samples, alpha = picture(), (ALPHA >> 8).astype(np.uint8)
    exif = exif_of(1).tobytes().removeprefix(b"Exif\0\0")
    return Photo(samples, alpha, None, icc_profiles.srgb(), Metadata(exif, UPRIGHT_XMP, IPTC))


def test_the_table_names_every_format() -> None:
    assert [row.name for row in TABLE] == list(MEDIA_TYPES)
    assert [row.output_format for row in WRITTEN] == ["png", "jpeg", "webp", "avif", "tiff"]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
@pytest.mark.parametrize("bits", [8, 16])
def test_what_is_said_to_be_read_is_read_at_its_depth(row: Row, bits: int) -> None:
    if bits not in row.bits_read:
        assert (row.bits_read, bits) == ((8,), 16)
        return
    data = input_of(row.name, bits)
    assert media_type(data) == MEDIA_TYPES[row.name]
    assert format_of(open_file(data)) == row.name.upper()
    samples = read_photo(data, LIMITS).samples
    assert samples.dtype.itemsize * 8 == bits
    expected = picture() if bits == 8 else DEEP
    if row.name in ("PNG", "TIFF", "BMP"):
        np.testing.assert_array_equal(samples, expected)
    else:
        assert np.abs(samples.astype(int) - expected).mean() < 8


@pytest.mark.parametrize("row", WRITTEN, ids=lambda row: row.name)
@pytest.mark.parametrize("bits", [8, 16])
def test_what_is_said_to_come_back_comes_back(row: Row, bits: int) -> None:
    photo = everything(bits)
    quality = None if row.is_lossless else 95
    data = write_photo(photo, photo.unchanged, Output(row.output_format, quality))
    assert media_type(data) == MEDIA_TYPES[row.name]
    result = read_photo(data, LIMITS)
    assert (result.samples.dtype.itemsize == bits // 8) == (bits in row.bits_written)
    assert (result.alpha is not None) == row.has_alpha
    assert (result.icc_profile == photo.icc_profile) == row.has_metadata
    assert (b"A. Body" in result.metadata.exif) == row.has_metadata
    assert (result.metadata.xmp == UPRIGHT_XMP) == row.has_metadata
    assert (result.metadata.iptc == IPTC) == row.has_iptc
    if row.is_lossless:
        np.testing.assert_array_equal(result.samples, photo.samples)
        np.testing.assert_array_equal(result.alpha, photo.alpha)


@pytest.mark.parametrize("row", WRITTEN, ids=lambda row: row.name)
def test_lossy_is_what_is_said_to_be(row: Row) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    data = write_photo(Photo(noise), Photo(noise).unchanged, Output(row.output_format))
    assert np.array_equal(decode(data, LIMITS), noise) == row.is_lossless


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_tiff_is_read_by_others(channels: int) -> None:
    photo = everything(16)
    samples = photo.samples if channels > 2 else photo.samples[..., :1]
    photo = replace(photo, samples=samples, alpha=None if channels % 2 else photo.alpha)
    found = tifffile.imread(
        io.BytesIO(write_photo(photo, photo.unchanged, Output("tiff", metadata="strip")))
    )
    expected = photo.samples if channels > 2 else np.repeat(samples, 3, -1)
    if channels == 1:
        np.testing.assert_array_equal(found, samples[..., 0])
    else:
        np.testing.assert_array_equal(found[..., :3], expected)
    if channels % 2 == 0:
        np.testing.assert_array_equal(found[..., 3:], ALPHA)


def test_heic_is_read_upright_and_with_its_metadata() -> None:
    options = {"exif": exif_of(6).tobytes(), "xmp": XMP, "icc_profile": icc_profiles.display_p3()}
    photo = read_photo(heic_of(picture(40, 24), **options), LIMITS)
    assert photo.shape == (40, 24)
    expected = np.rot90(picture(40, 24), k=-1).astype(int)
    assert np.abs(photo.samples - expected).mean() < 4
    assert b"A. Body" in photo.metadata.exif and photo.metadata.xmp
    assert photo.icc_profile == icc_profiles.display_p3()


def test_heic_is_refused_with_advice_where_its_package_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UnsupportedImageType, match="pillow-heif is not installed .* send JPEG"):
        decode(heic_of(picture()), LIMITS)
