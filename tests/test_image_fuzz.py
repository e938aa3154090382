"""Files broken in every way: reading ends in pixels or in a ClientError, never in anything else."""

import json
import random
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.errors import ClientError, ImageTooLarge, InvalidImage
from service.image_16_bits import write_png_16
from service.images import ImageLimits, Output, read_mask, read_photo, write_photo
from tests import icc_profiles
from tests.test_image_fidelity import DEEP, XMP, described_jpeg, exif_of
from tests.test_image_formats import heic_of
from tests.test_images import file_of, picture, png_with_header

LIMITS = ImageLimits(max_bytes=1_000_000, max_pixels=100_000, min_side=1)
MAX_GROWTH_BYTES = 64 * 2**20


def seeds() -> list[bytes]:
    """One good file of every kind."""
    colour, grey = Image.fromarray(picture()), Image.fromarray(picture()[..., 0])
    described = {"exif": exif_of(6), "icc_profile": icc_profiles.display_p3()}
    frames = {"save_all": True, "append_images": [Image.fromarray(255 - picture())]}
    return [
        *(file_of(colour, kind, **described) for kind in ("PNG", "WEBP", "AVIF", "TIFF")),
        *(file_of(colour, kind) for kind in ("BMP", "GIF", "PPM", "ICO")),
        *(file_of(colour, kind, **frames) for kind in ("PNG", "WEBP", "TIFF", "MPO")),
        *(file_of(grey.convert(mode), "PNG") for mode in ("1", "L", "LA", "P")),
        *(write_png_16(DEEP[..., :n], icc_profiles.srgb(), b"", XMP) for n in (1, 2, 3, 4)),
        described_jpeg(),
        file_of(colour.convert("CMYK"), "JPEG"),
        file_of(colour.convert("CMYK"), "TIFF"),
        file_of(grey, "PNG", icc_profile=icc_profiles.grey_gamma(1.8)),
        file_of(colour.resize((1, 1)), "PNG"),
        file_of(Image.new("1", (9_000, 10)), "PNG"),
        heic_of(picture(), exif=exif_of(6).tobytes()),
        with_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**25), 9)),
        with_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(bytes(2**25), 9)),
    ]  # fmt: skip


def with_chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk behind its header: 32 MiB, if it were unpacked."""
    data = file_of(Image.fromarray(picture()), "PNG")
    crc = struct.pack(">I", zlib.crc32(kind + content))
    return data[:33] + struct.pack(">I", len(content)) + kind + content + crc + data[33:]


def truncate(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def flip_bits(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 12)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def flip_header(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(min(200, len(data)))] = chance.randrange(256)


def cut_out(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    del data[start : start + chance.randint(1, 64)]


def repeat(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    data[start:start] = data[start : start + chance.randint(1, 256)]


def other_start(data: bytearray, chance: random.Random) -> None:
    data[:8] = chance.choice(
        (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0\0\x10JF", b"II*\0\x08\0\0\0")
    )


def claim_size(data: bytearray, chance: random.Random) -> None:
    """Another size in a PNG's header, whose checksum fits; more than what follows can fill."""
    if data[12:16] == b"IHDR":
        side = chance.choice((2, 300, 5_000, 60_000))
        data[16:24] = struct.pack(">II", side, chance.choice((1, 10, side)))
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    truncate, flip_bits, flip_header, cut_out, repeat, other_start, claim_size,
)  # fmt: skip


def try_all(num_cases: int, seed: int) -> dict[str, int]:
    """How many of so many mutated files were read and written again, and how many refused."""
    chance, good, counts = random.Random(seed), seeds(), {"read": 0, "refused": 0}
    for case in range(num_cases):
        data = bytearray(good[case % len(good)])
        for mutate in chance.sample(MUTATIONS, chance.randint(1, 2)):
            if data:
                mutate(data, chance)
        try:
            photo = read_photo(bytes(data), LIMITS)
        except ClientError:
            counts["refused"] += 1
            continue
        output_format = chance.choice(("png", "jpeg", "webp", "tiff"))
        read_photo(write_photo(photo, photo.unchanged, Output(output_format)), LIMITS)
        counts["read"] += 1
    return counts


@pytest.mark.filterwarnings("ignore")  # Pillow's own, about damage
def test_mutated_files_are_read_or_are_client_errors() -> None:
    counts = try_all(700, seed=1)
    assert counts["read"] + counts["refused"] == 700 and min(counts.values()) > 70


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_5000_mutated_files_take_no_more_memory_than_good_ones() -> None:
    """In a process of its own, whose memory is nobody else's."""
    command = [sys.executable, "-m", "tests.test_image_fuzz", "5000"]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    print(answer)
    assert answer["read"] + answer["refused"] == 5000 and answer["read"] > 500
    assert answer["growth_bytes"] < MAX_GROWTH_BYTES


@pytest.mark.filterwarnings("ignore")
def test_mutated_masks_are_read_or_are_client_errors() -> None:
    chance, good = random.Random(3), file_of(Image.fromarray(picture()[..., 0]), "PNG")
    for _ in range(100):
        data = bytearray(good)
        flip_bits(data, chance)
        try:
            assert read_mask(bytes(data), LIMITS, (24, 40)).shape == (24, 40)
        except ClientError:
            continue


def test_one_pixel_is_read_and_a_very_wide_picture_is_too_large() -> None:
    assert read_photo(file_of(Image.new("RGB", (1, 1)), "PNG"), LIMITS).pixels.shape == (1, 1, 3)
    with pytest.raises(ImageTooLarge):
        read_photo(file_of(Image.new("RGB", (30_000, 10)), "PNG"), LIMITS)
    with pytest.raises(InvalidImage):
        read_photo(png_with_header(30_000, 3), LIMITS)  # the header lies: there are no such rows


def test_a_wide_picture_within_the_limits_is_read_whole() -> None:
    limits = ImageLimits(10**7, 300_000, 1)
    data = file_of(Image.fromarray(np.zeros((10, 30_000), np.uint8)), "PNG")
    assert read_photo(data, limits).pixels.shape == (10, 30_000, 3)


def peak_bytes() -> int:
    """Of this process alone: getrusage() would count what its parent had when it forked."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for file in seeds():
        try:
            good = read_photo(file, LIMITS)
            write_photo(good, good.unchanged)
        except ClientError:
            continue
    before = peak_bytes()
    found = try_all(int(sys.argv[1]), seed=1)
    print(json.dumps(found | {"growth_bytes": peak_bytes() - before}))
