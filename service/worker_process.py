"""The worker as a process: load the base and its plugins, serve a queue until SIGTERM."""

import asyncio

from service.consumer_names import consumer_name
from service.engine.engine import Engine, build_engine
from service.errors import QueueUnavailable
from service.heap import keep_heap
from service.images import ImageLimits
from service.job_queue import JobQueue, QueueSettings
from service.settings import Settings
from service.signals import stop_on_signals
from service.tracing import Tracer
from service.worker import Worker, WorkerSettings


async def run_worker(settings: Settings) -> None:
    """Load the base and its plugins, then serve until SIGTERM. A second one ends at once."""
    if not settings.redis_url:
        raise QueueUnavailable("a worker needs a Redis: set DIFFPLUGIN_REDIS_URL")
    keep_heap()
    engine = build_engine(
        settings.plugins_store,
        settings.base,
        settings.device,
        settings.max_batch_size,
        settings.num_threads,
        settings.max_whole_pixels,
        cache_interval=settings.feature_cache_interval,
        compiles=settings.compile_unet,
        preset=settings.preset,
        max_plugin_bytes=settings.max_plugin_bytes,
        max_host_plugin_bytes=settings.max_host_plugin_bytes,
        int8=settings.int8_unet,
    )
    if settings.memory_share or settings.max_memory_bytes:
        engine.limit_memory(settings.memory_share, settings.max_memory_bytes)
    await serve_engine(engine, settings)


async def serve_engine(engine: Engine, settings: Settings) -> None:
    """Serve with an engine that is there already."""
    queue = JobQueue.connect(settings.redis_url, QueueSettings.from_settings(settings))
    backbone = engine.backbone
    about_worker = _worker_settings(settings, backbone.name, str(backbone.device))
    tracer = Tracer.connect(settings.traces_url, "worker")
    worker = Worker(queue, engine, about_worker, tracer)
    stop_on_signals(worker.stop)
    try:
        await worker.run()
    finally:
        await asyncio.to_thread(tracer.close)
        await queue.close()


def _worker_settings(settings: Settings, backbone: str, device: str) -> WorkerSettings:
    return WorkerSettings(
        name=consumer_name("worker"),
        backbone=backbone,
        device=device,
        limits=ImageLimits(
            settings.max_image_bytes, settings.max_image_pixels, settings.min_image_side
        ),
        shutdown_grace_s=settings.shutdown_grace_s,
    )
