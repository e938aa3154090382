"""Whether a file is one whole picture and nothing else: told from its bytes, no pixel decoded.

PNG and JPEG, which nearly all pictures are. Damage inside of the compressed data, and of other
formats, is found by whoever decodes. A file that is a picture and something else as well (an
archive, a page, a script) is refused: what follows a picture is nobody's to carry on.
"""

import struct

from service.errors import InvalidImage

PNG_START, JPEG_START = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
JPEG_END = b"\xff\xd9"
STANDALONE = (0x01, *range(0xD0, 0xD9))  # JPEG markers without a length
SCAN = 0xDA
# How archives, documents, pages and programs are known; a picture's metadata may name such, so
# only what lies outside of a picture counts.
FOREIGN = (b"PK\x03\x04", b"PK\x05\x06", b"%PDF-", b"<html", b"<script", b"<?php", b"<!doctype",
           b"Rar!", b"7z\xbc\xaf", b"\x7fELF", b"MZ\x90", b"#!/")  # fmt: skip


def check_whole(data: bytes) -> None:
    """InvalidImage if the file is cut off, or more than a picture."""
    if data.startswith(PNG_START):
        end = _end_of_png(data)
        if data[end:].strip(b"\0\r\n "):
            raise _more_than_a_picture("PNG")
    elif data.startswith(JPEG_START):
        # Phones append further pictures and data of their own, so only what is foreign is refused.
        tail = data[_end_of_jpeg(data) :].lower()
        if any(start.lower() in tail for start in FOREIGN):
            raise _more_than_a_picture("JPEG")


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
