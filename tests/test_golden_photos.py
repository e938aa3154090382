"""The photos of tests/golden/photos through the real service: queue, worker and engine.

What comes back is read by Pillow and tifffile, not by our own code.
"""

import asyncio
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from service.engine.engine import build_engine
from service.images import decode
from service.redis_server import PrivateRedis
from tests.api_stack import LIMITS, serving
from tests.golden_photos import FOLDER, HEIGHT, WIDTH
from tests.test_api_engine import working
from tests.test_image_fidelity import IPTC, XMP
from tests.test_images import file_of
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin

NUM_EDITED = 16  # columns at the left that the mask has white
UPRIGHT = np.asarray(Image.open(FOLDER / "upright.png"))
SEEN = {"display_p3.png": "display_p3.seen.png", "srgb.png": "upright.png"}
JPEGS = ("described.jpg", *(f"orientation_{n}.jpg" for n in range(1, 9)))

Answers = Mapping[tuple[str, str], bytes]  # files by the photo's name and the output format


@pytest.fixture(scope="module")
def answers(redis_server: PrivateRedis, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Edited where the mask is white: at the left."""
    store = tmp_path_factory.mktemp("store")
    write_tiny_base(store)
    write_tiny_plugin(store, "derain", seed=1)
    return asyncio.run(_edit_all(redis_server.url, store))


async def _edit_all(redis_url: str, store: Path) -> dict[tuple[str, str], bytes]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, :NUM_EDITED] = 255
    white_left = file_of(Image.fromarray(mask), "PNG")
    engine = build_engine(store, BASE, "cpu", max_batch_size=8, num_threads=1)
    settings = {"plugins_store": store, "base": BASE}
    found = {}
    async with serving(redis_url, store, roles=(), **settings) as stack, working(stack, engine):
        for path in sorted(FOLDER.iterdir()):
            if ".seen" in path.name:
                continue
            for output_format in ("png", "jpeg", "tiff"):
                files = {"image": path.read_bytes(), "mask": white_left}
                fields = {"plugins": "derain", "seed": 3, "output_format": output_format}
                answer = await stack.client.post("/v1/edit", data=fields, files=files)
                assert answer.status_code == 200, answer.text
                found[path.name, output_format] = answer.content
    return found


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def assert_edited_at_the_left_only(result: NDArray[np.generic], photo: NDArray[np.generic]) -> None:
    assert (result.shape, result.dtype) == (photo.shape, photo.dtype)
    np.testing.assert_array_equal(result[:, NUM_EDITED:], photo[:, NUM_EDITED:])
    colours = slice(0, 3)  # alpha is nobody's to edit
    assert (result[:, :NUM_EDITED, colours] != photo[:, :NUM_EDITED, colours]).mean() > 0.5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_back_upright(answers: Answers, orientation: int) -> None:
    name = f"orientation_{orientation}.jpg"
    result = opened(answers[name, "png"])
    assert result.getexif().get(0x0112, 1) == 1
    rest = np.asarray(result)[:, NUM_EDITED:].astype(int) - UPRIGHT[:, NUM_EDITED:]
    assert np.abs(rest).mean() < 3  # of the JPEG; another turn would differ by far
    assert result.size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("name", JPEGS)
def test_the_unmasked_part_of_a_jpeg_is_bit_exact_in_a_lossless_result(
    answers: Answers, name: str
) -> None:
    photo = np.asarray(turned_by_hand(opened((FOLDER / name).read_bytes())))
    assert_edited_at_the_left_only(np.asarray(opened(answers[name, "png"])), photo)
    assert_edited_at_the_left_only(np.asarray(opened(answers[name, "tiff"])), photo)


def turned_by_hand(image: Image.Image) -> Image.Image:
    turn = Image.Transpose
    steps = {
        2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE,
        6: turn.ROTATE_270, 7: turn.TRANSVERSE, 8: turn.ROTATE_90,
    }  # fmt: skip
    step = steps.get(image.getexif().get(0x0112, 1))
    return image if step is None else image.transpose(step)


@pytest.mark.parametrize("name", ["srgb.png", "display_p3.png"])
def test_a_profile_comes_back_with_values_of_its_own(answers: Answers, name: str) -> None:
    photo = opened((FOLDER / name).read_bytes())
    for output_format in ("png", "tiff"):
        result = opened(answers[name, output_format])
        assert result.info["icc_profile"] == photo.info["icc_profile"]
        assert_edited_at_the_left_only(np.asarray(result), np.asarray(photo))
    assert opened(answers[name, "jpeg"]).info["icc_profile"] == photo.info["icc_profile"]


@pytest.mark.parametrize("name", list(SEEN))
def test_the_models_see_srgb(name: str) -> None:
    seen = decode((FOLDER / name).read_bytes(), LIMITS).astype(int)
    golden = np.asarray(Image.open(FOLDER / SEEN[name]))
    assert np.abs(seen - golden).max() <= 2


def test_alpha_comes_back(answers: Answers) -> None:
    photo = np.asarray(opened((FOLDER / "alpha.png").read_bytes()))
    for output_format in ("png", "tiff"):
        result = np.asarray(opened(answers["alpha.png", output_format]))
        np.testing.assert_array_equal(result[..., 3], photo[..., 3])
        assert_edited_at_the_left_only(result, photo)
    assert opened(answers["alpha.png", "jpeg"]).mode == "RGB"


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_16_bits_come_back(answers: Answers, name: str) -> None:
    golden = tifffile.imread(FOLDER / "deep.tif")
    result = tifffile.imread(io.BytesIO(answers[name, "tiff"]))
    assert_edited_at_the_left_only(result, golden)
    high_bytes = np.asarray(opened(answers[name, "png"]))  # all that Pillow reads
    np.testing.assert_array_equal(high_bytes[:, NUM_EDITED:], golden[:, NUM_EDITED:] >> 8)
    assert answers[name, "png"][24] == 16  # the depth in its header
    has_profile = "icc_profile" in opened((FOLDER / name).read_bytes()).info
    assert ("icc_profile" in opened(answers[name, "png"]).info) == has_profile


@pytest.mark.parametrize("output_format", ["png", "jpeg", "tiff"])
def test_what_describes_a_photo_comes_back(answers: Answers, output_format: str) -> None:
    image = Image.open(io.BytesIO(answers["described.jpg", output_format]))
    exif = image.getexif()
    assert (exif[0x013B], exif.get_ifd(0x8769)[0x829A]) == ("A. Body", 0.5)
    assert exif.get_ifd(0x8825)[1] == "N"
    image.load()
    xmp = image.info.get("xmp") or image.info["XML:com.adobe.xmp"].encode()
    assert xmp.rstrip(b"\0") == XMP.replace(b'"6"', b'"1"')
    if output_format == "jpeg":
        assert image.info["photoshop"][0x0404] == IPTC
    elif output_format == "tiff":
        assert image.tag_v2[33723] == IPTC
