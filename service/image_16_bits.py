"""Writes PNG and TIFF files of 16 bits a channel, which Pillow cannot."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, TiffImagePlugin

from service.image_samples import Samples

COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}  # by the number of channels
XMP_KEYWORD = b"XML:com.adobe.xmp"
ALPHA_APART = 2  # not premultiplied
FILTER_UP = 2  # the one filter that is a single subtraction of whole arrays


def write_png_16(
    samples: Samples, icc_profile: bytes = b"", exif: bytes = b"", xmp: bytes = b""
) -> bytes:
    """File of samples (H, W, 1 to 4); `exif` without its "Exif" prefix."""
    height, width, channels = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, COLOUR_TYPE[channels], 0, 0, 0)
    chunks = [_chunk(b"IHDR", header)]
    if icc_profile:
        chunks.append(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc_profile)))
    if exif:
        chunks.append(_chunk(b"eXIf", exif))
    if xmp:
        chunks.append(_chunk(b"iTXt", XMP_KEYWORD + bytes(5) + xmp))
    chunks += [_chunk(b"IDAT", zlib.compress(_filtered(samples), 1)), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def write_tiff_16(samples: Samples, tags: Image.Exif, icc_profile: bytes = b"") -> bytes:
    """File of samples (H, W, 1, 3 or 4), not packed; `tags` say what it shows, not how."""
    height, width, channels = samples.shape
    directory = TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\x08\0\0\0")
    for tag, value in tags.items():
        directory[tag] = tags.get_ifd(tag) or value
    directory[TiffImagePlugin.IMAGEWIDTH] = width
    directory[TiffImagePlugin.IMAGELENGTH] = directory[TiffImagePlugin.ROWSPERSTRIP] = height
    directory[TiffImagePlugin.BITSPERSAMPLE] = (16,) * channels
    directory[TiffImagePlugin.SAMPLESPERPIXEL] = channels
    directory[TiffImagePlugin.COMPRESSION] = 1
    directory[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] = 1 if channels == 1 else 2
    if channels == 4:
        directory[TiffImagePlugin.EXTRASAMPLES] = ALPHA_APART
    if icc_profile:
        directory[TiffImagePlugin.ICCPROFILE] = icc_profile
    data = samples.astype("<u2").tobytes()
    directory[TiffImagePlugin.STRIPBYTECOUNTS] = len(data)
    directory[TiffImagePlugin.STRIPOFFSETS] = 0  # behind the directory, which save() adds
    buffer = io.BytesIO()
    directory.save(buffer)
    buffer.write(data)
    return buffer.getvalue()


def _filtered(samples: Samples) -> bytes:
    """Big-endian rows, each the difference to the row above, behind a byte that says so."""
    rows = samples.astype(">u2").reshape(len(samples), -1).view(np.uint8)
    lines = np.full((len(rows), rows.shape[1] + 1), FILTER_UP, np.uint8)
    lines[0, 1:] = rows[0]
    lines[1:, 1:] = rows[1:] - rows[:-1]
    return lines.tobytes()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + _crc(kind + content)


def _crc(content: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(content))
