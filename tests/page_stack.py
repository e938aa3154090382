"""The api on a real socket and Redis, in a thread, for browsers; and the browser. No torch.

The worker takes two steps per task. While it is held it stops after the first one.
"""

import asyncio
import base64
import shutil
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from service.images import Output, read_mask, read_photo, write_photo
from service.job_queue import JobQueue
from service.jobs import JobError, Preview, Progress, Timings
from service.queue_records import Claim
from tests.api_stack import LIMITS, Stack, listening, photo, running_role, serving

NUM_STEPS = 2
START_TIMEOUT_S = 60.0
WAIT_MS = 60_000
# The roles beat once; a browser on a busy machine takes its time.
HEARTBEAT_S = 60.0
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class PageService:
    """A running service that one test has to itself; `url` is the page's."""

    def __init__(
        self, redis_url: str, store: Path, roles: tuple[str, ...], **settings: object
    ) -> None:
        self._where, self._roles = (redis_url, store), roles
        self._settings = {"heartbeat_s": HEARTBEAT_S, **settings}
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self.url = ""
        self.stack: Stack

    def start(self) -> None:
        self._thread.start()
        assert self._is_ready.wait(START_TIMEOUT_S), "the api did not start"

    def stop(self) -> None:
        self.let_go()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_TIMEOUT_S)

    def hold(self) -> None:
        """From now on jobs stop after the first step, until let_go()."""
        self._loop.call_soon_threadsafe(self._may_go_on.clear)

    def let_go(self) -> None:
        self._loop.call_soon_threadsafe(self._may_go_on.set)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop, self._may_go_on = asyncio.Event(), asyncio.Event()
        self._may_go_on.set()
        async with AsyncExitStack() as exits:
            others = tuple(role for role in self._roles if role != "worker")
            serving_it = serving(*self._where, others, **self._settings)
            self.stack = await exits.enter_async_context(serving_it)
            if "worker" in self._roles:
                worker = running_role(self.stack.queue, "worker", self._restore)
                await exits.enter_async_context(worker)
            self.url = await exits.enter_async_context(listening(self.stack.app))
            self._is_ready.set()
            await self._stop.wait()

    async def _restore(self, queue: JobQueue, claim: Claim) -> None:
        """Brighten the photo, where its mask allows it."""
        request = claim.job.request
        if "break" in request.instruction:
            await queue.fail(claim, JobError(code="edit_failed", detail="the engine broke"))
            return
        assert claim.job.plan
        names = claim.job.plan.runnable
        for task, name in enumerate(names, start=1):
            for step in range(1, NUM_STEPS + 1):
                progress = Progress(
                    plugin=name, task=task, num_tasks=len(names), step=step, num_steps=NUM_STEPS
                )
                if not await queue.report(claim, progress):
                    return  # canceled
                preview = base64.b64encode(photo(16, 12)).decode()
                shown = Preview(number=step, media_type="image/png", base64=preview)
                await queue.show(claim, progress, shown)
                await self._may_go_on.wait()
        sent = read_photo(claim.image, LIMITS)
        mask = read_mask(claim.mask, LIMITS, sent.shape)
        brighter = np.sqrt(sent.unchanged)
        result = write_photo(sent, brighter, Output.of(request), names, mask)
        timings = Timings(denoise_s=0.25)
        await queue.complete(claim, result, f"image/{request.output_format}", timings)


@contextmanager
def page_service(
    redis_url: str,
    store: Path,
    roles: tuple[str, ...] = ("selector", "worker"),
    **settings: object,
) -> Iterator[PageService]:
    service = PageService(redis_url, store, roles, **settings)
    service.start()
    try:
        yield service
    finally:
        service.stop()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium; skips, with the reason, where there is none."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium on PATH: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


class Visitor:
    """A window on the page that remembers everything that went wrong in it."""

    def __init__(self, page: Page, service: PageService) -> None:
        self.page, self.service = page, service
        self.complaints: list[str] = []
        self.urls: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._see)

    def open(self) -> None:
        self.page.goto(self.service.url)
        self.page.wait_for_selector("#tasks button")
        self.page.wait_for_selector("#health[data-status]")

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.text} ({message.location})")

    def _see(self, request: Request) -> None:
        self.urls.append(request.url)

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)

    def plan(self) -> list[str]:
        """Names of the plan's tasks, in order."""
        rows = self.page.locator("#plan-list li")
        return [str(row.get_attribute("data-plugin")) for row in rows.all()]

    def restore(self) -> None:
        """Press Restore, and wait for one more result in the history."""
        num_before = self.page.locator("#visits li").count()
        self.page.click("#restore")
        self.page.wait_for_selector(f"#visits li:nth-child({num_before + 1})")

    def check_accessibility(self) -> None:
        found = Axe().run(self.page).response["violations"]
        lines = [f"{v['id']}: {node['html']}" for v in found for node in v["nodes"]]
        assert not lines, "\n".join(lines)

    def check_width(self) -> None:
        """Nothing sticks out to the side."""
        width = self.page.evaluate("document.documentElement.scrollWidth")
        assert width <= self.page.evaluate("innerWidth")
