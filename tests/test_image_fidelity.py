"""Everything around the pixels comes back: upright, deep, transparent, grey, described."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from service.errors import InvalidImage, InvalidRequest, UnsupportedImageType
from service.image_16_bits import write_png_16
from service.images import (
    ImageLimits,
    Output,
    Photo,
    UnitPixels,
    decode,
    encode,
    media_type,
    read_photo,
    write_photo,
)
from tests.test_images import file_of, picture

LIMITS = ImageLimits(max_bytes=1_000_000, max_pixels=100_000, min_side=16)
RANDOM = np.random.default_rng(5)
DEEP = RANDOM.integers(0, 65536, (20, 24, 4)).astype(np.uint16)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF tiff:Orientation="6" dc:x="me"/></x:xmpmeta>'
IPTC = b"\x1c\x02\x74\x00\x0b(c) A. Body"  # record 2, data set 116: copyright
EVERY_FORMAT = ("png", "jpeg", "webp", "avif", "tiff")


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x013B] = orientation, "A. Body"
    exif.get_ifd(0x8769)[0x829A] = 0.5  # exposure time
    exif.get_ifd(0x8825)[1] = "N"
    exif[0x8769] = exif[0x8825] = 0  # so that Pillow writes these directories into a TIFF, too
    return exif


def described_jpeg(orientation: int = 6) -> bytes:
    photoshop = b"Photoshop 3.0\0" + b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(IPTC)) + IPTC
    segment = b"\xff\xed" + struct.pack(">H", len(photoshop) + 2) + photoshop
    image = Image.fromarray(picture(40, 24))
    return file_of(image, "JPEG", exif=exif_of(orientation), xmp=XMP, extra=segment, quality=95)


def brighter(photo: Photo, by: float = 0.01) -> UnitPixels:
    return np.clip(photo.unchanged + np.float32(by), 0, 1)


def edited(data: bytes, output: Output = Output(), by: float = 0.0) -> Image.Image:
    photo = read_photo(data, LIMITS)
    image = Image.open(io.BytesIO(write_photo(photo, brighter(photo, by), output)))
    for directory in (0x8769, 0x8825):
        image.getexif().get_ifd(directory)  # of a TIFF while its file is open
    image.load()
    return image


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(image_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if image_format == "WEBP" else {}
    data = file_of(Image.fromarray(picture(40, 24)), image_format, exif=exif, **options)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(decode(data, LIMITS), expected)
    assert ImageOps.exif_transpose(edited(data)).size == expected.shape[1::-1]


@pytest.mark.parametrize("output_format", EVERY_FORMAT)
def test_exif_and_xmp_come_back_with_orientation_1(output_format: str) -> None:
    image = edited(described_jpeg(), Output(output_format))
    assert image.size == (24, 40)
    exif = image.getexif()
    assert (exif[0x013B], exif.get(0x0112, 1)) == ("A. Body", 1)
    assert exif.get_ifd(0x8769)[0x829A] == 0.5
    assert exif.get_ifd(0x8825)[1] == "N"
    xmp = image.info.get("xmp") or image.info["XML:com.adobe.xmp"].encode()
    assert xmp.rstrip(b"\0") == XMP.replace(b'"6"', b'"1"')


def test_iptc_comes_back_in_the_formats_that_hold_it() -> None:
    assert edited(described_jpeg(), Output("jpeg")).info["photoshop"][0x0404] == IPTC
    tiff = edited(described_jpeg(), Output("tiff"))
    assert tiff.tag_v2[33723] == IPTC
    again = edited(file_of(tiff, "TIFF", tiffinfo={33723: IPTC}), Output("jpeg"))
    assert again.info["photoshop"][0x0404] == IPTC


@pytest.mark.parametrize("output_format", EVERY_FORMAT)
def test_metadata_is_stripped_on_request(output_format: str) -> None:
    image = edited(described_jpeg(), Output(output_format, metadata="strip"))
    assert image.size == (24, 40)
    assert 0x013B not in image.getexif() and 0x8825 not in image.getexif()
    assert not {"xmp", "photoshop", "XML:com.adobe.xmp"} & image.info.keys()


def test_the_tags_of_a_tiff_come_back() -> None:
    data = file_of(Image.fromarray(picture()), "TIFF", exif=exif_of(1))
    for output_format in ("jpeg", "tiff"):
        exif = edited(data, Output(output_format)).getexif()
        assert (exif[0x013B], exif.get_ifd(0x8769)[0x829A]) == ("A. Body", 0.5)


def test_the_exif_directory_of_a_packed_tiff_comes_back() -> None:
    tifffile = pytest.importorskip("tifffile")
    buffer, stand_in = io.BytesIO(), struct.pack("<HHII", 0x8768, 4, 1, 99)
    options = {"photometric": "rgb", "compression": "zlib", "byteorder": "<"}
    tifffile.imwrite(buffer, picture(), extratags=[(0x8768, 4, 1, 99)], **options)
    start = len(buffer.getvalue())
    directory = struct.pack("<HHHIIIII", 1, 0x829A, 5, 1, start + 18, 0, 1, 2)
    entry = struct.pack("<HHII", 0x8769, 4, 1, start)
    data = buffer.getvalue().replace(stand_in, entry) + directory
    assert edited(data, Output("jpeg")).getexif().get_ifd(0x8769)[0x829A] == 0.5


def test_the_thumbnail_of_the_old_picture_is_let_go_and_maker_notes_stay_in_place() -> None:
    # One entry (orientation), then a second directory with the thumbnail, then notes.
    exif = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 8, 0, 26) + b"\0\0\0\0\0\0NOTES"
    data = file_of(Image.fromarray(picture()), "PNG", exif=exif)
    kept = read_photo(data, LIMITS).metadata.exif
    assert kept == exif.replace(b"\0\x08\0\0\0\0\0\x1a", b"\0\x01" + bytes(6))


def test_damaged_exif_is_left_out_and_the_picture_is_read() -> None:
    data = file_of(Image.fromarray(picture()), "WEBP", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert read_photo(data, LIMITS).metadata.exif == b""


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_come_back_unrounded(channels: int) -> None:
    samples = DEEP[..., :channels]
    data = write_png_16(samples)
    photo = read_photo(data, LIMITS)
    same = read_photo(write_photo(photo, photo.unchanged), LIMITS)
    joined = photo.samples if photo.alpha is None else np.dstack([photo.samples, photo.alpha])
    np.testing.assert_array_equal(joined, samples)
    np.testing.assert_array_equal(same.samples, photo.samples)
    if photo.alpha is not None:
        np.testing.assert_array_equal(same.alpha, photo.alpha)


def test_the_change_is_added_to_16_bits_in_float() -> None:
    samples = np.clip(DEEP[..., :3], 2000, 60000).astype(np.uint16)
    photo = read_photo(write_png_16(samples), LIMITS)
    result = read_photo(write_photo(photo, brighter(photo, 0.001)), LIMITS).samples
    assert np.abs(result.astype(int) - samples - 65.535).max() < 1


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_tiff_is_read_in_full(compression: str, byteorder: str, channels: int) -> None:
    tifffile = pytest.importorskip("tifffile")
    samples = DEEP[..., :channels]
    buffer = io.BytesIO()
    photometric = "minisblack" if channels == 1 else "rgb"
    options = {"photometric": photometric, "compression": compression, "byteorder": byteorder}
    if channels == 4:
        options["extrasamples"] = ["unassalpha"]
    tifffile.imwrite(buffer, np.squeeze(samples), **options)
    photo = read_photo(buffer.getvalue(), LIMITS)
    joined = photo.samples if photo.alpha is None else np.dstack([photo.samples, photo.alpha])
    np.testing.assert_array_equal(joined, samples)


def test_16_bit_files_are_well_formed() -> None:
    """Pillow reads the high byte of what we write."""
    with Image.open(io.BytesIO(write_png_16(DEEP, exif=b"MM\0*\0\0\0\x08\0\0", xmp=XMP))) as image:
        assert (image.mode, image.size) == ("RGBA", (24, 20))
        np.testing.assert_array_equal(np.asarray(image), DEEP >> 8)
        assert image.info["XML:com.adobe.xmp"].encode() == XMP


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_colour_of_16_bits_becomes_alpha(channels: int) -> None:
    samples = DEEP[..., :channels]
    data = write_png_16(samples)
    content = b"tRNS" + samples[2, 3].astype(">u2").tobytes()
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    start = data.index(b"IDAT") - 4
    photo = read_photo(data[:start] + chunk + data[start:], LIMITS)
    assert photo.alpha is not None and photo.alpha[2, 3] == 0 and photo.alpha.mean() > 60_000
    np.testing.assert_array_equal(photo.samples, samples)


def test_alpha_is_carried_around_the_model_unpremultiplied() -> None:
    rgba = RANDOM.integers(0, 256, (20, 24, 4), dtype=np.uint8)
    for output_format, options in (("png", {}), ("webp", {}), ("avif", {}), ("tiff", {})):
        data = file_of(Image.fromarray(rgba), "PNG", **options)
        image = edited(data, Output(output_format, 100 if output_format != "png" else None))
        assert image.mode == "RGBA"
        if output_format in ("png", "tiff"):
            np.testing.assert_array_equal(np.asarray(image), rgba)
        else:
            alpha = np.asarray(image)[..., 3].astype(int)
            assert np.abs(alpha - rgba[..., 3]).max() <= 1


def test_jpeg_shows_a_transparent_picture_on_white() -> None:
    rgba = np.zeros((16, 32, 4), np.uint8)
    rgba[:, 16:, 3] = 255
    image = np.asarray(edited(file_of(Image.fromarray(rgba), "PNG"), Output("jpeg")))
    assert image[:, :8].min() > 250 and image[:, 24:].max() < 5


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_stays_grey(mode: str) -> None:
    source = Image.fromarray(picture()[..., 0]).convert(mode)
    image = edited(file_of(source, "PNG"))
    assert image.mode == {"1": "L"}.get(mode, mode)
    assert image.convert("L").tobytes() == source.convert("L").tobytes()


def test_grey_becomes_coloured_only_by_a_plugin_that_colours() -> None:
    photo = read_photo(file_of(Image.fromarray(picture()[..., 0]), "PNG"), LIMITS)
    tinted = photo.unchanged * np.float32([1, 0.8, 0.6])
    for plugins, channels in ((("derain",), 1), (("derain", "colorize"), 3)):
        result = read_photo(write_photo(photo, tinted, plugins=plugins), LIMITS)
        assert result.samples.shape[-1] == channels


def test_a_palette_comes_back_as_its_colours_and_transparency() -> None:
    source = Image.fromarray(picture()).quantize(32)
    opaque = edited(file_of(source, "PNG"))
    assert opaque.tobytes() == source.convert("RGB").tobytes()
    clear = edited(file_of(source, "PNG", transparency=3))
    assert clear.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(clear)[..., 3] == 0, np.asarray(source) == 3)


def test_cmyk_comes_back_as_rgb_with_its_metadata() -> None:
    source = Image.fromarray(picture(40, 24)).convert("CMYK")
    image = edited(file_of(source, "JPEG", exif=exif_of(6), quality=95))
    assert (image.mode, image.size, image.getexif()[0x013B]) == ("RGB", (24, 40), "A. Body")
    expected = np.rot90(picture(40, 24), k=-1).astype(int)
    assert np.abs(np.asarray(image) - expected).mean() < 6


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_animations_and_pages_are_refused(image_format: str) -> None:
    frames = [Image.fromarray(np.roll(picture(), 9 * i, 1)) for i in range(3)]
    data = file_of(frames[0], image_format, save_all=True, append_images=frames[1:])
    with pytest.raises(UnsupportedImageType, match="3 frames or pages"):
        read_photo(data, LIMITS)


def test_a_jpeg_with_a_second_picture_inside_is_a_jpeg() -> None:
    frame = Image.fromarray(picture())
    data = file_of(frame, "MPO", save_all=True, append_images=[frame])
    assert media_type(data) == "image/jpeg"
    assert decode(data, LIMITS).shape == (24, 40, 3)


def test_a_broken_heic_is_damaged_and_not_unknown() -> None:
    with pytest.raises(InvalidImage, match="HEIC image is damaged"):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), LIMITS)


def test_floats_are_refused() -> None:
    with pytest.raises(UnsupportedImageType, match="8 or 16 bits"):
        decode(file_of(Image.new("F", (20, 20)), "TIFF"), LIMITS)


@pytest.mark.parametrize("output_format", ["jpeg", "webp", "avif"])
def test_quality_makes_files_smaller(output_format: str) -> None:
    noise = RANDOM.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert len(encode(noise, output_format, 10)) < len(encode(noise, output_format, 90)) / 2


def test_a_side_that_the_format_cannot_hold_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="at most 16383 pixels a side"):
        encode(np.zeros((1, 16384, 3), np.uint8), "webp")
