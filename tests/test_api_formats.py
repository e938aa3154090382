"""Every format of docs/api.md over every wire: HTTP, gRPC and OpenAI give the same file."""

import base64
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

from service.images import MEDIA_TYPES, decode, media_type
from service.pb.diffplugin.v1 import edit_pb2 as pb
from tests.api_stack import LIMITS, Stack, listening
from tests.grpc_stack import serving_both, stub_of
from tests.test_image_formats import TABLE, input_of
from tests.test_images import file_of, picture

HEIGHT, WIDTH = picture().shape[:2]
IS_EDITED = np.arange(WIDTH) < WIDTH // 2


@dataclass
class Wires:
    stack: Stack
    stub: Any
    openai: openai.AsyncOpenAI


@pytest.fixture
async def wires(redis_url: str, tmp_path: Path) -> AsyncIterator[Wires]:
    async with (
        serving_both(redis_url, tmp_path) as (stack, channel),
        listening(stack.app) as url,
        openai.DefaultAsyncHttpxClient(trust_env=False) as http,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", http_client=http) as client,
    ):
        yield Wires(stack, stub_of(channel), client)


def mask() -> bytes:
    """White where it is edited."""
    rows = np.broadcast_to(IS_EDITED * np.uint8(255), (HEIGHT, WIDTH))
    return file_of(Image.fromarray(np.ascontiguousarray(rows)), "PNG")


def transparent_mask() -> bytes:
    """The same as OpenAI has it."""
    rgba = np.full((HEIGHT, WIDTH, 4), 255, np.uint8)
    rgba[:, IS_EDITED, 3] = 0
    return file_of(Image.fromarray(rgba), "PNG")


async def results_of(wires: Wires, image: bytes, output_format: str) -> list[bytes]:
    """The masked edit over each wire."""
    files = {"image": image, "mask": mask()}
    fields = {"instruction": "derain", "output_format": output_format}
    over_http = await wires.stack.client.post("/v1/edit", data=fields, files=files)
    assert over_http.status_code == 200, over_http.text
    number = pb.OutputFormat.Value(f"OUTPUT_FORMAT_{output_format.upper()}")
    request = pb.EditRequest(
        image=image, instruction="derain", mask=mask(), output_format=number, previews=1
    )
    updates = wires.stub.EditStream(pb.EditStreamRequest(edit=request))
    streamed = {update.WhichOneof("update"): update async for update in updates}
    assert Image.open(io.BytesIO(streamed["preview"].preview.image)).format == "JPEG"
    over_grpc = streamed["result"].result
    assert over_grpc.media_type == over_http.headers["content-type"] == MEDIA_TYPES[output_format]
    by_openai = await wires.openai.images.edit(
        image=("photo", image),
        prompt="derain",
        mask=("mask.png", transparent_mask()),
        output_format=output_format,  # type: ignore[arg-type]  # theirs names three of our five
    )
    [answer] = by_openai.data or []
    return [over_http.content, over_grpc.image, base64.b64decode(answer.b64_json or "")]


@pytest.mark.parametrize("output_format", MEDIA_TYPES)
async def test_every_format_comes_out_of_every_wire(wires: Wires, output_format: str) -> None:
    results = await results_of(wires, input_of("PNG", 8), output_format)
    assert len(set(results)) == 1
    assert media_type(results[0]) == MEDIA_TYPES[output_format]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
async def test_every_format_goes_into_every_wire(wires: Wires, row: Any) -> None:
    data = input_of(row.name, max(row.bits_read))
    results = await results_of(wires, data, "png")
    assert len(set(results)) == 1
    before, after = decode(data, LIMITS).astype(int), decode(results[0], LIMITS).astype(int)
    np.testing.assert_array_equal(after[:, ~IS_EDITED], before[:, ~IS_EDITED])
    assert np.abs(after[:, :8] - (255 - before[:, :8])).max() <= 1
