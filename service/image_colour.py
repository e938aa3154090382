"""Colour spaces of ICC profiles: file values <-> sRGB, in float, both in [0, 1].

Profiles of tone curves and a matrix (those of displays and cameras' output: Display P3, Adobe RGB,
ProPhoto) and grey curves are computed exactly. Of others only the way to sRGB is known, by lcms.
"""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

Unit = NDArray[np.float32]  # (..., C) in [0, 1]
Curve = NDArray[np.float32]  # (CURVE_POINTS,): encoded value -> linear light, both in [0, 1]

CURVE_POINTS = 4096
# Colorants of sRGB under D50, the white of profiles: columns R, G, B.
SRGB_TO_XYZ = np.array(
    [
        [0.43607, 0.38515, 0.14307],
        [0.22249, 0.71687, 0.06061],
        [0.01392, 0.09708, 0.71410],
    ]
)
NOTICEABLE = 1 / 510  # half a level of 8 bits
GRID = np.linspace(0, 1, CURVE_POINTS, dtype=np.float32)


@dataclass(frozen=True)
class ColourSpace:
    """Tone curves, one for each channel, and for three of them a matrix to linear sRGB."""

    curves: tuple[Curve, ...]
    to_linear_srgb: NDArray[np.float32]  # (C, C)

    def to_srgb(self, values: Unit) -> Unit:
        """sRGB of values (..., C); colours outside of sRGB are clipped."""
        linear = np.stack(
            [np.interp(values[..., i], GRID, c) for i, c in enumerate(self.curves)], -1
        )
        return _encode_srgb(np.clip(linear @ self.to_linear_srgb.T, 0, 1).astype(np.float32))

    def from_srgb(self, values: Unit) -> Unit:
        """The values that show these sRGB colours."""
        back = np.linalg.inv(self.to_linear_srgb).astype(np.float32)
        linear = np.clip(_decode_srgb(values) @ back.T, 0, 1)
        channels = [np.interp(linear[..., i], c, GRID) for i, c in enumerate(self.curves)]
        return np.stack(channels, -1).astype(np.float32)

    @property
    def is_srgb(self) -> bool:
        """Nobody could tell its values from sRGB's."""
        ramp = np.linspace(0, 1, 6, dtype=np.float32)
        axes = np.meshgrid(*[ramp] * len(self.curves), indexing="ij")
        colours = np.stack(axes, -1)
        return bool(np.abs(self.to_srgb(colours) - colours).max() < NOTICEABLE)


def parse_profile(profile: bytes) -> ColourSpace | None:
    """The colour space of an ICC profile; None if it is damaged or of another kind."""
    try:
        tags = _tags(profile)
        if profile[16:20] == b"GRAY":
            return ColourSpace((_curve(tags[b"kTRC"]),), np.eye(1, dtype=np.float32))
        if profile[16:20] != b"RGB " or profile[20:24] != b"XYZ ":
            return None
        to_xyz = np.stack([_xyz(tags[name]) for name in (b"rXYZ", b"gXYZ", b"bXYZ")], -1)
        curves = tuple(_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC"))
        matrix = np.linalg.inv(SRGB_TO_XYZ) @ to_xyz
        np.linalg.inv(matrix)  # a matrix without a way back is damaged
        return ColourSpace(curves, matrix.astype(np.float32))
    except (KeyError, IndexError, ValueError, ArithmeticError, struct.error):
        return None


def to_srgb_by_lcms(image: Image.Image, profile: bytes) -> Image.Image | None:
    """The image in sRGB by a profile of any kind; None if lcms cannot use that profile."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _tags(profile: bytes) -> dict[bytes, bytes]:
    (num_tags,) = struct.unpack_from(">I", profile, 128)
    entries = [struct.unpack_from(">4sII", profile, 132 + 12 * i) for i in range(min(num_tags, 64))]
    return {name: profile[start : start + size] for name, start, size in entries}


def _xyz(tag: bytes) -> NDArray[np.float64]:
    if tag[:4] != b"XYZ ":
        raise ValueError("a colorant is not of type XYZ")
    values = np.frombuffer(tag, ">i4", 3, 8).astype(np.float64)
    return values / 65536


def _curve(tag: bytes) -> Curve:
    """From 0 to 1 without falling, so that it can be inverted."""
    read: dict[bytes, Callable[[bytes], NDArray[np.float64]]] = {
        b"curv": _sampled_curve,
        b"para": _parametric_curve,
    }
    with np.errstate(all="ignore"):
        values = np.nan_to_num(read[tag[:4]](tag))
    return np.maximum.accumulate(np.clip(values, 0, 1)).astype(np.float32)


def _sampled_curve(tag: bytes) -> NDArray[np.float64]:
    grid = GRID.astype(np.float64)
    (count,) = struct.unpack_from(">I", tag, 8)
    if count == 0:
        return grid
    if count == 1:
        return grid ** (int(struct.unpack_from(">H", tag, 12)[0]) / 256)
    points = np.frombuffer(tag, ">u2", count, 12) / 65535
    return np.interp(grid, np.linspace(0, 1, count), points)


def _parametric_curve(tag: bytes) -> NDArray[np.float64]:
    """ICC.1 section 10.18: (a x + b)^g + e above d, c x + f below."""
    x = GRID.astype(np.float64)
    (kind,) = struct.unpack_from(">H", tag, 8)
    count = (1, 3, 4, 5, 7)[kind]
    p = [number / 65536 for number in struct.unpack_from(f">{count}i", tag, 12)]
    g, a, b = p[:3] if kind else (p[0], 1.0, 0.0)
    c, d, e, f = 0.0, -b / a, 0.0, 0.0
    if kind == 2:
        e = f = p[3]
    elif kind > 2:
        c, d, e, f = (*p[3:], 0.0, 0.0)[:4]
    return np.where(x >= d, np.clip(a * x + b, 0, None) ** g + e, c * x + f)


def _encode_srgb(linear: Unit) -> Unit:
    curved = 1.055 * linear ** np.float32(1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, 12.92 * linear, curved).astype(np.float32)


def _decode_srgb(values: Unit) -> Unit:
    curved = ((values + 0.055) / 1.055) ** np.float32(2.4)
    return np.where(values <= 0.04045, values / 12.92, curved).astype(np.float32)
