"""EXIF, XMP and IPTC of an image file: taken out as bytes, and put into another file."""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image, PngImagePlugin

from service.image_exif import EXIF_PREFIX, make_upright
from service.image_files import DAMAGE, OutputFormat

EXIF_IFD, GPS_IFD = 0x8769, 0x8825
XMP_KEYWORD = "XML:com.adobe.xmp"
XMP_TAG, IPTC_TAG = 700, 33723
# Tags of a TIFF file that describe the photo rather than how it is stored.
DESCRIPTIVE = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:=[\"']|>))[1-8]")
MAX_SEGMENT = 65_000  # bytes of one kind of metadata that a JPEG holds


@dataclass(frozen=True)
class Metadata:
    """Each as its standard has it; orientation is 1, for the pixels are upright. Empty: none."""

    exif: bytes = b""  # a TIFF header and what follows, without "Exif"
    xmp: bytes = b""
    iptc: bytes = b""  # IIM records


def read_metadata(image: Image.Image) -> Metadata:
    """Of an image that is loaded, for a PNG may end in metadata.

    What is damaged is left out: the picture counts.
    """
    return Metadata(_read_exif(image), _read_xmp(image), _read_iptc(image))


def save_options(metadata: Metadata, output_format: OutputFormat) -> dict[str, Any]:
    """Arguments of Pillow's save() that write `metadata` into a file of that format."""
    if output_format == "tiff":
        return {"exif": tiff_tags(metadata)}
    max_bytes = MAX_SEGMENT if output_format == "jpeg" else 2**31
    options: dict[str, Any] = {}
    if 0 < len(metadata.exif) <= max_bytes:
        options["exif"] = EXIF_PREFIX + metadata.exif
    if output_format == "png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        if metadata.xmp:
            options["pnginfo"].add_itxt(XMP_KEYWORD, metadata.xmp.decode(errors="replace"))
    elif 0 < len(metadata.xmp) <= max_bytes:
        options["xmp"] = metadata.xmp
    if output_format == "jpeg" and 0 < len(metadata.iptc) <= max_bytes:
        options["extra"] = _photoshop_segment(metadata.iptc)
    return options


def _read_exif(image: Image.Image) -> bytes:
    exif = image.info.get("exif", b"")
    try:
        if image.format == "TIFF":
            exif = _descriptive(image.getexif()).tobytes()
        return make_upright(exif) if isinstance(exif, bytes) and exif else b""
    except DAMAGE:
        return b""


def _descriptive(found: Image.Exif) -> Image.Exif:
    """What EXIF says of the photo, without tags that say how a file stores it."""
    kept = Image.Exif()
    for tag in DESCRIPTIVE:
        if tag in found:
            kept[tag] = found[tag]
    for tag in (EXIF_IFD, GPS_IFD):
        if part := found.get_ifd(tag):
            kept.get_ifd(tag).update(part)
            kept[tag] = 0  # Pillow writes the directories of the tags that are there
    return kept


def _read_xmp(image: Image.Image) -> bytes:
    xmp = image.info.get("xmp") or image.info.get(XMP_KEYWORD) or b""
    data = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    return XMP_ORIENTATION.sub(rb"\g<1>1", data.rstrip(b"\0"))


def _read_iptc(image: Image.Image) -> bytes:
    """IIM records of a JPEG's Photoshop segment or of a TIFF's own tag."""
    try:
        resources = image.info.get("photoshop")
        tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
        found = resources.get(0x0404, b"") if isinstance(resources, dict) else tags.get(IPTC_TAG)
        return bytes(found) if isinstance(found, bytes) else b""
    except DAMAGE:
        return b""


def _photoshop_segment(iptc: bytes) -> bytes:
    """APP13 of a JPEG with one image resource: IPTC."""
    padded = iptc + bytes(len(iptc) % 2)
    resource = b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(iptc)) + padded
    content = b"Photoshop 3.0\0" + resource
    return b"\xff\xed" + struct.pack(">H", len(content) + 2) + content


def _parsed(data: bytes) -> Image.Exif:
    """Empty if it is damaged."""
    exif = Image.Exif()
    try:
        exif.load(data)
        kept = _descriptive(exif)
        kept.tobytes()
        return kept
    except DAMAGE:
        return Image.Exif()


def tiff_tags(metadata: Metadata) -> Image.Exif:
    """A TIFF's own tags are its EXIF."""
    exif = Image.Exif()
    if metadata.exif:
        exif = _parsed(metadata.exif)
    for tag, data in ((XMP_TAG, metadata.xmp), (IPTC_TAG, metadata.iptc)):
        if data:
            exif[tag] = data
    return exif
