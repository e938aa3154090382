"""One webhook's way out: signed as Standard Webhooks has it, and sent until it is taken."""

import asyncio
import base64
import hashlib
import hmac
import logging
import random
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import httpx

from service.api.webhook_target import resolve
from service.errors import InvalidRequest
from service.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

TIMEOUT_S = 10.0
MAX_PAUSE_S = 300.0
GONE = 410  # the receiver wants no more


class Delivery:
    """Posts bodies; close() it. `stop` ends every wait."""

    def __init__(self, settings: Settings, stop: asyncio.Event) -> None:
        self._settings, self._stop = settings, stop
        # A redirect could lead to an address that was not checked.
        self._http = httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False)

    async def close(self) -> None:
        await self._http.aclose()

    async def send(self, url: str, message_id: str, body: bytes) -> bool:
        """True once it is settled: taken, given up, or unwanted; False if stopped before."""
        for attempt in range(self._settings.webhook_attempts):
            if attempt:
                await self._pause(attempt)
            if self._stop.is_set():
                return False
            status = await self._try(url, message_id, body)
            if status is not None and (200 <= status < 300 or status == GONE):
                return True
        log.warning("webhook %s is given up after %d attempts", message_id, attempt + 1)
        return True

    async def _try(self, url: str, message_id: str, body: bytes) -> int | None:
        """The status of the answer; None if there was none."""
        try:
            target = await resolve(url, self._settings.webhook_allow_private)
            headers = signed_headers(self._settings.webhook_secret, message_id, body)
            request = target.request(self._http, body, headers)
            answer = await self._unless_stopped(self._http.send(request))
        except InvalidRequest as error:
            log.warning("webhook %s may not go out: %s", message_id, error)
            return GONE
        except httpx.HTTPError as error:
            log.info("webhook %s was not taken: %s", message_id, type(error).__name__)
            return None
        return None if answer is None else answer.status_code

    async def _pause(self, attempt: int) -> None:
        pause_s = min(MAX_PAUSE_S, self._settings.webhook_retry_s * 4.0 ** (attempt - 1))
        await self._unless_stopped(asyncio.sleep(pause_s * random.uniform(0.75, 1.25)))

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Its result; None if the stop came first."""
        doing = asyncio.create_task(work)
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({doing, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return doing.result() if doing.done() else None
        finally:
            doing.cancel()
            stopped.cancel()


def signed_headers(secret: str, message_id: str, body: bytes) -> dict[str, str]:
    """standardwebhooks.com: HMAC-SHA256 over id, time and body, each bound to the others."""
    timestamp = str(int(time.time()))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    content = b".".join((message_id.encode(), timestamp.encode(), body))
    signature = base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
    return {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }
