"""The api role: a FastAPI application over the queue, and the server that runs it."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import uvicorn
from fastapi import FastAPI

from service import __version__
from service.api import (
    docs_page,
    events,
    kserve,
    openai_images,
    operations,
    page,
    repository,
    routes,
)
from service.api.early_door import EarlyDoor
from service.api.grpc_errors import Edge
from service.api.grpc_server import serving_grpc
from service.api.guard import Guard, check_exposure
from service.api.http_guard import KeyCheck
from service.api.intake import Intake
from service.api.middleware import Gate
from service.api.openapi import serve_openapi
from service.api.problems import add_problem_handlers
from service.api.tls import check_tls, uvicorn_tls
from service.api.webhook_sender import sending_webhooks
from service.interpreter import keep_loaded
from service.job_queue import JobQueue
from service.metrics import ApiMetrics
from service.queue_pictures import sweeping
from service.queue_records import QueueSettings
from service.settings import Settings
from service.signals import stop_on_signals
from service.tracing import Tracer

# Beside the image a body carries its other fields and the boundaries.
BODY_OVERHEAD_BYTES = 2**20


def create_app(settings: Settings) -> FastAPI:
    """The application; when it starts, it opens its queue and, if that has a port, gRPC."""
    assert settings.redis_url, (
        "the api needs a redis_url: `serve` starts a Redis and hands it down."
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        queue = JobQueue.connect(settings.redis_url, QueueSettings.from_settings(settings))
        app.state.intake = intake = Intake(queue, settings)
        app.state.guard = Guard(queue.redis, settings.key_prefix, settings.api_keys_file)
        async with AsyncExitStack() as exits:
            exits.push_async_callback(queue.close)
            exits.push_async_callback(asyncio.to_thread, app.state.tracer.close)
            await exits.enter_async_context(sweeping(queue))
            looking = asyncio.create_task(intake.admission.keep_looking())
            exits.callback(looking.cancel)
            if settings.webhook_secret:
                await exits.enter_async_context(sending_webhooks(queue, settings))
            if settings.grpc_port:
                edge = Edge(app.state.metrics, app.state.guard, app.state.tracer)
                serving = serving_grpc(intake, edge, settings, settings.grpc_port)
                await exits.enter_async_context(serving)
            keep_loaded()
            yield

    app = FastAPI(
        title="Diff-Plugin Serve",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere; docs_page does not
        redoc_url=None,
    )
    app.state.base, app.state.settings = settings.base, settings
    app.state.metrics = ApiMetrics()
    app.state.tracer = Tracer.connect(settings.traces_url, "api")
    app.add_middleware(KeyCheck, guard=lambda: app.state.guard)
    # Base64 makes four bytes of three.
    max_body_bytes = settings.max_image_bytes * 4 // 3 + BODY_OVERHEAD_BYTES
    app.add_middleware(
        Gate,
        metrics=app.state.metrics,
        tracer=app.state.tracer,
        max_body_bytes=max_body_bytes,
    )
    add_problem_handlers(app)
    app.include_router(routes.router)
    app.include_router(events.router)
    app.include_router(openai_images.router)
    app.include_router(operations.router)
    app.include_router(page.router)
    app.include_router(kserve.router)
    app.include_router(repository.router)
    app.include_router(docs_page.router)
    serve_openapi(app)
    return app


def with_early_door(app: FastAPI) -> EarlyDoor:
    """What a server runs: outside of the application, where a refusal costs least."""
    return EarlyDoor(app, app.state.metrics, lambda: app.state.intake.admission)


async def run_api(settings: Settings) -> None:
    """Serve HTTP and gRPC until SIGTERM or SIGINT, then let running requests end.

    InvalidRequest if strangers could use it unasked, or if TLS is half set up.
    """
    check_exposure(settings)
    check_tls(settings)
    config = uvicorn.Config(
        with_early_door(create_app(settings)),
        host=settings.host,
        port=settings.port,
        access_log=False,  # the gate writes one line per request
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=int(settings.shutdown_grace_s),
        **uvicorn_tls(settings),
    )
    await ApiServer(config).serve()


class ApiServer(uvicorn.Server):
    """uvicorn, but a stop that was asked for ends with code 0, not by the signal raised again."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        stop_on_signals(lambda: self.handle_exit(signal.SIGTERM, None))
        yield
