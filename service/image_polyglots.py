"""Polyglots: files that are an image to one reader and a document, archive or script to another.

Such a file may be stored as a picture and opened as something else; a photo never is one by chance.
"""

import re

from service.errors import InvalidImage

PDF = b"%PDF-"
PDF_REACH = 1024  # readers look for it that far
HTML = re.compile(rb"<(?:!doctype\s+html|html|script|svg)\b", re.IGNORECASE)
HTML_REACH = 4096  # browsers guess by less
ANYWHERE = {b"<?php": "PHP", b"Rar!\x1a\x07": "RAR", b"7z\xbc\xaf\x27\x1c": "7z"}
ZIP_END = b"PK\x05\x06"
ZIP_END_BYTES = 22
ZIP_REACH = ZIP_END_BYTES + 0xFFFF  # its end and the longest comment


def refuse_polyglot(data: bytes) -> None:
    """InvalidImage if the file can be read as something else, too."""
    if (kind := other_kind(data)) is not None:
        raise InvalidImage(
            f"the file is an image and {kind} at once; open it in an image editor and save it anew"
        )


def other_kind(data: bytes) -> str | None:
    """What the file is besides an image; None for what photos are."""
    if PDF in data[:PDF_REACH]:
        return "a PDF"
    if HTML.search(data, 0, HTML_REACH):
        return "HTML"
    if _ends_as_zip(data):
        return "a ZIP archive"
    return next((name for mark, name in ANYWHERE.items() if mark in data), None)


def _ends_as_zip(data: bytes) -> bool:
    """The end record of an archive, followed by nothing but the comment that it announces."""
    start = data.rfind(ZIP_END, max(0, len(data) - ZIP_REACH))
    if start < 0 or len(data) - start < ZIP_END_BYTES:
        return False
    num_comment = int.from_bytes(data[start + 20 : start + ZIP_END_BYTES], "little")
    return start + ZIP_END_BYTES + num_comment == len(data)
