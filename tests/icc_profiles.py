"""ICC profiles made of numbers: three colorants and one tone curve, or a grey curve."""

import struct

# Colorants adapted to D50, columns R, G, B, as Display P3's own specification gives them.
P3_COLORANTS = (
    (0.51512, 0.24120, -0.00105),
    (0.29198, 0.69225, 0.04189),
    (0.15710, 0.06657, 0.78407),
)
SRGB_COLORANTS = (
    (0.43607, 0.22249, 0.01392),
    (0.38515, 0.71687, 0.09708),
    (0.14307, 0.06061, 0.71410),
)
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def matrix_profile(
    colorants: tuple[tuple[float, ...], ...], curve: tuple[float, ...] = SRGB_CURVE
) -> bytes:
    """An RGB profile; `curve` is g, a, b, c, d of a parametric curve of kind 3."""
    tags = {f"{name}XYZ": _xyz(xyz) for name, xyz in zip("rgb", colorants, strict=True)}
    tags |= {f"{name}TRC": _parametric(curve) for name in "rgb"}
    return _profile(b"RGB ", tags)


def display_p3() -> bytes:
    return matrix_profile(P3_COLORANTS)


def srgb() -> bytes:
    return matrix_profile(SRGB_COLORANTS)


def grey_gamma(gamma: float) -> bytes:
    content = b"curv" + struct.pack(">IIHH", 0, 1, round(256 * gamma), 0)
    return _profile(b"GRAY", {"kTRC": content})


def _profile(space: bytes, tags: dict[str, bytes]) -> bytes:
    tags["wtpt"] = _xyz((0.9642, 1.0, 0.8249))
    offset, table, body = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name.encode(), offset + len(body), len(content))
        body += content
    size = offset + len(body)
    header = struct.pack(">I4s4s4s4s4s", size, b"\0\0\0\0", b"\4\x30\0\0", b"mntr", space, b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * value) for value in values))


def _parametric(numbers: tuple[float, ...]) -> bytes:
    fixed = [round(65536 * number) for number in numbers]
    return b"para\0\0\0\0" + struct.pack(f">HH{len(fixed)}i", 3, 0, *fixed)
