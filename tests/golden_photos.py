"""Writes tests/golden/photos/: small files of every kind, and what other software makes of them.

    python -m tests.golden_photos

They are committed, so that another version of a codec or of ours cannot change what is expected.
"""

import io
import struct
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from service.image_16_bits import write_png_16
from tests import icc_profiles
from tests.test_image_fidelity import IPTC, XMP, exif_of
from tests.test_images import file_of

FOLDER = Path(__file__).parent / "golden" / "photos"
WIDTH, HEIGHT = 48, 40


def scene() -> NDArray[np.float64]:
    """(H, W, 3) in [0, 1]: four quarters that differ, so that no turn looks like another."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / 47
    picture = np.stack([x, y, 0.5 + 0.4 * np.sin(9 * x + 5 * y)], -1)
    picture[: HEIGHT // 2, : WIDTH // 2, 0] = 0.9
    picture[HEIGHT // 2 :, WIDTH // 2 :, 2] = 0.1
    return picture


def write_all() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    shallow = np.rint(scene() * 255).astype(np.uint8)
    deep = np.rint(scene() * 65535).astype(np.uint16)
    picture = Image.fromarray(shallow)
    picture.save(FOLDER / "upright.png")
    for orientation in range(1, 9):
        write(f"orientation_{orientation}.jpg", turned_jpeg(picture, orientation))
    write("srgb.png", file_of(picture, "PNG", icc_profile=icc_profiles.srgb()))
    p3 = icc_profiles.display_p3()
    write("display_p3.png", file_of(picture, "PNG", icc_profile=p3))
    source = ImageCms.ImageCmsProfile(io.BytesIO(p3))
    seen = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"))
    seen.save(FOLDER / "display_p3.seen.png")
    alpha = np.rint(np.linspace(0, 255, WIDTH)).astype(np.uint8)
    rgba = np.dstack([shallow, np.broadcast_to(alpha, (HEIGHT, WIDTH))])
    write("alpha.png", file_of(Image.fromarray(rgba), "PNG"))
    write("deep.png", write_png_16(deep, p3))
    tifffile.imwrite(FOLDER / "deep.tif", deep, photometric="rgb", compression="zlib")
    write("described.jpg", described(picture))


def write(name: str, data: bytes) -> None:
    (FOLDER / name).write_bytes(data)


def turned_jpeg(upright: Image.Image, orientation: int) -> bytes:
    """A file that shows `upright` once its orientation is applied."""
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    exif = Image.Exif()
    exif[0x0112] = inverse
    stand_in = Image.open(io.BytesIO(file_of(upright, "PNG", exif=exif)))
    stored = ImageOps.exif_transpose(stand_in)
    exif[0x0112] = orientation
    return file_of(stored, "JPEG", quality=95, subsampling=0, exif=exif)


def described(picture: Image.Image) -> bytes:
    photoshop = b"Photoshop 3.0\0" + b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(IPTC)) + IPTC
    segment = b"\xff\xed" + struct.pack(">H", len(photoshop) + 2) + photoshop
    options = {"exif": exif_of(1), "xmp": XMP.replace(b'"6"', b'"1"'), "extra": segment}
    return file_of(picture, "JPEG", quality=95, **options)


if __name__ == "__main__":
    write_all()
