"""A worker process that ends every job with the picture it was given: the queue's whole protocol
around an engine that does nothing.

DIFFPLUGIN_REDIS_URL=... python -m loadtests.echo_worker
"""

import asyncio
import signal
import time

import uvloop

from service.job_queue import JobQueue, QueueSettings, Stage
from service.jobs import WorkerInfo
from service.settings import Settings

NAME = "echo"
CLAIMS = 32  # at once: an engine with as many free rows


async def echo(settings: Settings) -> None:
    """Until SIGTERM."""
    queue = JobQueue.connect(settings.redis_url, QueueSettings.from_settings(settings))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    heartbeat_at = 0.0
    while not stop.is_set():
        if time.monotonic() > heartbeat_at:
            await queue.heartbeat(WorkerInfo(name=NAME, role="worker"))
            heartbeat_at = time.monotonic() + 1.0
        claims = await queue.claim(Stage.RUN, NAME, CLAIMS, 0.5)
        await asyncio.gather(
            *(queue.complete(c, c.image, "image/png", c.job.timings) for c in claims)
        )
    await queue.close()


if __name__ == "__main__":
    uvloop.run(echo(Settings()))
