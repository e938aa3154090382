"""EXIF as bytes: its orientation read, and set, without touching anything else.

It is changed in place, never parsed and written anew, because maker notes hold offsets into it.
"""

import struct
from collections.abc import Iterator

ORIENTATION = 0x0112
EXIF_PREFIX = b"Exif\0\0"
ENTRY_BYTES = 12


def orientation_of(exif: bytes) -> int:
    """1 to 8; 1, the picture is upright, if the EXIF does not say or is damaged."""
    exif = exif.removeprefix(EXIF_PREFIX)
    try:
        order = _order(exif)
        for entry in _entries(exif, order):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, entry)
            if tag == ORIENTATION:
                return int(value)
    except (KeyError, struct.error):
        pass
    return 1


def make_upright(exif: bytes) -> bytes:
    """The same with orientation 1, and without the thumbnail, for that shows the old picture.

    Empty if it is damaged.
    """
    exif = exif.removeprefix(EXIF_PREFIX)
    changed = bytearray(exif)
    try:
        order = _order(exif)
        entry = struct.unpack_from(f"{order}I", exif, 4)[0] + 2 - ENTRY_BYTES
        for entry in _entries(exif, order):
            if struct.unpack_from(f"{order}H", exif, entry)[0] == ORIENTATION:
                struct.pack_into(f"{order}HIHH", changed, entry + 2, 3, 1, 1, 0)
        struct.pack_into(f"{order}I", changed, entry + ENTRY_BYTES, 0)  # where the next one lies
    except (KeyError, struct.error):
        return b""
    return bytes(changed)


def _order(exif: bytes) -> str:
    return {b"II": "<", b"MM": ">"}[exif[:2]]


def _entries(exif: bytes, order: str) -> Iterator[int]:
    """Where the entries of the first directory lie."""
    (start,) = struct.unpack_from(f"{order}I", exif, 4)
    (num,) = struct.unpack_from(f"{order}H", exif, start)
    yield from range(start + 2, start + 2 + ENTRY_BYTES * num, ENTRY_BYTES)
