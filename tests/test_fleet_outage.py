"""Redis is away for a while: nobody crashes, readiness says why, and all goes on afterwards."""

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from loadtests.chaos_jobs import write_store
from loadtests.fleet import Fleet, serve_selector
from loadtests.overload import running_api
from service.launch import free_port
from service.redis_server import PrivateRedis
from tests.fleet_jobs import fleet_settings
from tests.scripted_worker import GOOD, serve_scripted, slow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

TIMEOUT_S = 100.0


async def until_ready(client: httpx.AsyncClient, status: int) -> dict[str, object]:
    async with asyncio.timeout(TIMEOUT_S):
        while (answer := await client.get("/readyz")).status_code != status:
            await asyncio.sleep(0.1)
    readiness: dict[str, object] = answer.json()
    return readiness


async def submit(client: httpx.AsyncClient, image: bytes) -> httpx.Response:
    return await client.post(
        "/v1/edit",
        files={"image": ("a.png", image)},
        data={"plugins": "derain", "timeout": "300"},
        headers={"Prefer": "respond-async"},
    )


async def until_succeeded(client: httpx.AsyncClient, answer: httpx.Response) -> dict[str, object]:
    assert answer.status_code == 202, answer.text
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            job: dict[str, object] = (await client.get(f"/v1/edits/{answer.json()['id']}")).json()
            if job["finished_at"] is not None:
                assert job["status"] == "succeeded", job
                return job
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("away_s", [4.0, pytest.param(60.0, marks=pytest.mark.full)])
async def test_every_role_outlives_a_redis_that_is_away(tmp_path: Path, away_s: float) -> None:
    write_store(tmp_path)
    with PrivateRedis(is_durable=True) as redis:
        settings = fleet_settings(
            redis.url, plugins_store=tmp_path, port=free_port(), grpc_port=0, heartbeat_s=1.0
        )
        with (
            running_api(settings) as url,
            Fleet(settings, 2, serve_scripted) as workers,
            Fleet(settings, 1, serve_selector) as selectors,
        ):
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60.0) as client:
                await until_ready(client, 200)
                running = await submit(client, slow(3))
                redis.kill()
                comes_back_at = time.monotonic() + away_s
                missing = (await until_ready(client, 503))["missing"]
                assert "Redis does not answer" in str(missing)
                refused = await submit(client, GOOD)
                assert (refused.status_code, refused.json()["code"]) == (503, "queue_unavailable")
                assert int(refused.headers["Retry-After"]) >= 1
                for path in ("/livez", "/metrics"):
                    assert (await client.get(path)).status_code == 200
                await asyncio.sleep(max(0.0, comes_back_at - time.monotonic()))
                redis.start()
                await until_ready(client, 200)
                await until_succeeded(client, running)
                await until_succeeded(client, await submit(client, GOOD))
            assert all(process.is_alive() for process in workers.processes + selectors.processes)
