"""Whether a file is one whole picture and nothing else: told from its bytes, no pixel decoded.

A file that is a picture to one reader and a document, archive or script to another may be stored as
the one and opened as the other; no photo is such a file by chance. Cut off are told PNG and JPEG,
which nearly all pictures are; damage inside, and of other formats, is found by whoever decodes.
"""

import re
import struct

import numpy as np

from service.errors import InvalidImage

PNG_START, JPEG_START = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
JPEG_END = b"\xff\xd9"
STANDALONE = (0x01, *range(0xD0, 0xD9))  # JPEG markers without a length
SCAN = 0xDA

PDF = b"%PDF-"
PDF_REACH = 1024  # readers look for it that far
HTML = re.compile(rb"<(?:!doctype\s+html|html|script|svg)\b", re.IGNORECASE)
HTML_REACH = 4096  # browsers guess by less
ANYWHERE = {b"<?php": "PHP", b"Rar!\x1a\x07": "RAR", b"7z\xbc\xaf\x27\x1c": "7z"}
MANY_PAIRS = 1000  # a photo of 64 MB has about 500 of a kind by chance
ZIP_END = b"PK\x05\x06"
ZIP_END_BYTES = 22
ZIP_REACH = ZIP_END_BYTES + 0xFFFF  # its end and the longest comment
# How files begin that phones do not append to their JPEGs, as they do further pictures and films.
FOREIGN = (b"PK\x03\x04", PDF, b"\x7fELF", b"MZ", b"#!")


def check_whole(data: bytes) -> None:
    """InvalidImage if the image file is cut off, or more than a picture."""
    if (kind := _other_kind(data)) is not None:
        raise InvalidImage(
            f"the file is an image and {kind} at once; open it in an image editor and save it anew"
        )
    if data.startswith(PNG_START):
        if data[_end_of_png(data) :].strip(b"\0\r\n "):
            raise _more_than_a_picture("PNG")
    elif data.startswith(JPEG_START):
        # A film is megabytes of anything, so only what comes first in it says what it is.
        tail = data[_end_of_jpeg(data) :].lstrip(b"\0\r\n ")
        if tail.startswith(FOREIGN) or HTML.match(tail):
            raise _more_than_a_picture("JPEG")


def _other_kind(data: bytes) -> str | None:
    """What the file is besides an image; None for what photos are."""
    if PDF in data[:PDF_REACH]:
        return "a PDF"
    if HTML.search(data, 0, HTML_REACH):
        return "HTML"
    if _ends_as_zip(data):
        return "a ZIP archive"
    return next((name for mark, name in ANYWHERE.items() if _has(data, mark)), None)


def _has(data: bytes, mark: bytes) -> bool:
    """`mark in data`, many times as fast where pairs of its bytes are rare.

    Wherever a mark begins, its first two bytes or its second and third are one aligned pair.
    """
    pairs = np.frombuffer(data, "<u2", len(data) // 2)
    for shift in (0, 1):
        is_pair = pairs == int.from_bytes(mark[shift : shift + 2], "little")
        if np.count_nonzero(is_pair) > MANY_PAIRS:
            return mark in data
        starts = 2 * np.flatnonzero(is_pair) - shift
        if any(data.startswith(mark, start) for start in starts.tolist()):
            return True
    return False


def _ends_as_zip(data: bytes) -> bool:
    """The end record of an archive, followed by nothing but the comment that it announces."""
    start = data.rfind(ZIP_END, max(0, len(data) - ZIP_REACH))
    if start < 0 or len(data) - start < ZIP_END_BYTES:
        return False
    num_comment = int.from_bytes(data[start + 20 : start + ZIP_END_BYTES], "little")
    return start + ZIP_END_BYTES + num_comment == len(data)


def _end_of_png(data: bytes) -> int:
    """Behind the last chunk. Chunks: length, type, content, checksum."""
    at, num_bytes = len(PNG_START), len(data)
    while at + 12 <= num_bytes:
        length, kind = struct.unpack_from(">I4s", data, at)
        at += 12 + length
        if kind == b"IEND" and at <= num_bytes:
            return int(at)
    raise InvalidImage("the PNG image is damaged or truncated: it has no end")


def _end_of_jpeg(data: bytes) -> int:
    """Behind the end marker of the first picture: segments up to its scan, then the marker."""
    at = len(JPEG_START)
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return _found_end(data, at)  # damaged: whoever decodes may make sense of it
        marker = data[at + 1]
        if marker == 0xFF or marker in STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker == SCAN:
            return _found_end(data, at + 2 + length)
        at += 2 + length
    raise InvalidImage("the JPEG image is damaged or truncated: it has no scan")


def _found_end(data: bytes, start: int) -> int:
    end = data.find(JPEG_END, start)
    if end < 0:
        raise InvalidImage("the JPEG image is damaged or truncated: it has no end")
    return end + len(JPEG_END)


def _more_than_a_picture(kind: str) -> InvalidImage:
    return InvalidImage(
        f"the file is a {kind} picture with something else appended to it; send the picture alone"
    )
