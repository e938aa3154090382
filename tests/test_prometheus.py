"""A real Prometheus scrapes a running api with our configuration, rules and panels."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from service.metrics_worker import EngineMetrics
from tests.api_stack import Stack, listening, serving
from tests.test_dashboards import DEPLOY, Engine, panels, rules

TIMEOUT_S = 100.0


@asynccontextmanager
async def prometheus(folder: Path, target: str) -> AsyncIterator[httpx.AsyncClient]:
    """Our configuration, but for the api's address and the pace."""
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus on PATH: apt-get install prometheus")
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOY / "prometheus/rules.yml")]
    job = config["scrape_configs"][0]
    job["static_configs"][0]["targets"] = [target.removeprefix("http://")]
    config["scrape_configs"] = [job]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={address}",
        "--log.level=error",
    )
    try:
        async with httpx.AsyncClient(
            base_url=f"http://{address}/api/v1", trust_env=False, timeout=TIMEOUT_S
        ) as client:
            yield client
    finally:
        process.terminate()
        await process.wait()


async def ask(client: httpx.AsyncClient, expression: str) -> list[dict[str, Any]]:
    answer = (await client.get("/query", params={"query": expression})).json()
    assert answer["status"] == "success", f"{expression}: {answer}"
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


async def until_found(client: httpx.AsyncClient, expression: str) -> dict[str, Any]:
    """The first sample of an expression, once there is one."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                if found := await ask(client, expression):
                    return found[0]
            except httpx.TransportError:  # it is still starting
                pass
            await asyncio.sleep(0.1)


async def run_something(stack: Stack) -> None:
    metrics = EngineMetrics(Engine())
    metrics.observe_batch(("derain", "lowlight"), 0.1, max_edits=8)
    await metrics.publish(stack.queue, "fake-worker")
    assert (await stack.edit(instruction="derain")).status_code == 200


async def test_prometheus_scrapes_a_running_service(redis_url: str, tmp_path: Path) -> None:
    async with (
        serving(redis_url, tmp_path / "store", heartbeat_s=TIMEOUT_S) as stack,
        listening(stack.app) as url,
        prometheus(tmp_path, url) as client,
    ):
        await run_something(stack)
        edits = 'diffplugin_http_requests_total{route="/v1/edit", code="200"} == 1'
        await until_found(client, edits)
        assert (await until_found(client, 'up{job="diffplugin"}'))["value"][1] == "1"
        shared = await until_found(client, 'diffplugin_shared_batches_total{worker="fake-worker"}')
        assert shared["value"][1] == "1"
        lag = 'diffplugin_queue_lag_seconds{stage="run", priority="normal"}'
        assert (await until_found(client, lag))["value"][1] == "0"
        for title, panel in panels():
            for target in panel["targets"]:
                text = target["expr"].replace("$__rate_interval", "1m").replace("$worker", ".*")
                assert isinstance(await ask(client, text), list), title
        groups = (await client.get("/rules")).json()["data"]["groups"]
        loaded = [rule for group in groups for rule in group["rules"]]
        assert len(loaded) == len(rules())
        assert {rule["health"] for rule in loaded} <= {"ok", "unknown"}
        firing = {rule["name"] for rule in loaded if rule.get("alerts")}
        assert not firing & {"DiffpluginApiDown", "DiffpluginRedisDown", "DiffpluginNoWorker"}
