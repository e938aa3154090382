"""Restore many photos at once: python examples/async_client.py "remove the rain" *.jpg

Needs httpx alone. Results lie beside the photos as NAME.restored.png.
"""

import asyncio
import os
import sys
from pathlib import Path

import httpx

URL = os.environ.get("DIFFPLUGIN_URL", "http://127.0.0.1:8000")


async def edit(client: httpx.AsyncClient, photo: Path, instruction: str) -> None:
    answer = await client.post(
        "/v1/edit", files={"image": photo.read_bytes()}, data={"instruction": instruction}
    )
    answer.raise_for_status()
    photo.with_suffix(".restored.png").write_bytes(answer.content)
    print("restored", photo)


async def main(instruction: str, photos: list[Path]) -> None:
    limits = httpx.Limits(max_connections=8)  # more would only wait in the service's queue
    async with httpx.AsyncClient(base_url=URL, timeout=120.0, limits=limits) as client:
        await asyncio.gather(*(edit(client, photo, instruction) for photo in photos))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], [Path(name) for name in sys.argv[2:]]))
