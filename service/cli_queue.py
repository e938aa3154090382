"""One question of a command to the queue of a running fleet."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from service.cli_settings import read_settings
from service.errors import InvalidRequest
from service.job_queue import JobQueue, QueueSettings

RedisUrl = Annotated[str | None, typer.Option("--redis-url", help="Default: DIFFPLUGIN_REDIS_URL.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Answer = TypeVar("Answer")


def ask(redis_url: str | None, question: Callable[[JobQueue], Awaitable[Answer]]) -> Answer:
    """The answer of the queue at `redis_url`, else at the setting's."""
    settings = read_settings(redis_url=redis_url)
    if not settings.redis_url:
        raise InvalidRequest(
            "say which Redis: --redis-url redis://localhost:6379, or set DIFFPLUGIN_REDIS_URL; "
            "`diffplugin serve` prints that of its own"
        )

    async def run() -> Answer:
        queue = JobQueue.connect(settings.redis_url, QueueSettings.from_settings(settings))
        try:
            return await question(queue)
        finally:
            await queue.close()

    return asyncio.run(run())
