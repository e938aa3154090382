"""Typed clients of the HTTP API, blocking and asyncio; they raise the errors of service.errors."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

import httpx

from service import errors
from service.client_wire import (
    RESPOND_ASYNC,
    Call,
    EditOptions,
    EditResult,
    EventReader,
    checked,
    edit_fields,
    edit_result,
    is_loopback,
    key_header,
    plan_of,
    transport_failure,
    upload,
)
from service.jobs import Job, Plan
from service.queue_records import Event

__all__ = ["AsyncClient", "Client", "EditOptions", "EditResult"]


class Client:
    """Blocking client: `with Client("http://127.0.0.1:8000") as client: client.edit(...)`.

    `tls`: an SSL context that knows the service's authority, or holds a certificate of the caller.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        timeout_s: float = 120.0,
        transport: httpx.BaseTransport | None = None,
        api_key: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        self._http = httpx.Client(
            base_url=url,
            transport=transport,
            trust_env=not is_loopback(url),
            headers=key_header(api_key),
            verify=True if tls is None else tls,
        )

    def edit(
        self,
        image: bytes | Path,
        instruction: str = "",
        plugins: Sequence[str] | None = None,
        mask: bytes | Path | None = None,
        **options: Unpack[EditOptions],
    ) -> EditResult:
        """Restore `image`; `plugins`, if given, run instead of what the instruction asks for."""
        data = edit_fields(instruction, plugins, options)
        return edit_result(self._send(upload("/v1/edit", image, data, self.timeout_s, mask)))

    def submit(
        self,
        image: bytes | Path,
        instruction: str = "",
        plugins: Sequence[str] | None = None,
        mask: bytes | Path | None = None,
        **options: Unpack[EditOptions],
    ) -> Job:
        """Queue what edit() does and return its job; watch(), get() and result() tell the rest."""
        data = edit_fields(instruction, plugins, options)
        call = upload("/v1/edit", image, data, self.timeout_s, mask, RESPOND_ASYNC)
        return Job.model_validate_json(self._send(call).content)

    def watch(self, job_id: str) -> Iterator[Event]:
        """What happens to a job, from its start to its end; a broken connection is resumed."""
        reader, deadline = EventReader(), time.monotonic() + self.timeout_s
        while not reader.is_done:
            call = reader.call(job_id, deadline)
            call.check_deadline()
            try:
                with self._http.stream(**call.arguments()) as answer:
                    if not answer.is_success:
                        answer.read()
                    for line in checked(answer).iter_lines():
                        yield from reader.read(line)
                        call.check_deadline()
            except (httpx.TransportError, errors.Unavailable) as error:
                time.sleep(call.pause_s(error))

    def result(self, job_id: str) -> EditResult:
        """The result of a job that has succeeded; raises the error that it ended with."""
        return edit_result(self._send(self._call("GET", f"/v1/edits/{job_id}/result")))

    def plan(self, image: bytes | Path, instruction: str) -> Plan:
        """What edit() would run for that instruction."""
        data = {"instruction": instruction}
        return plan_of(self._send(upload("/v1/plan", image, data, self.timeout_s)))

    def get(self, job_id: str) -> Job:
        """The job as it stands."""
        return Job.model_validate_json(self._send(self._call("GET", f"/v1/edits/{job_id}")).content)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; one that has ended stays as it is."""
        path = f"/v1/edits/{job_id}/cancel"
        return Job.model_validate_json(self._send(self._call("POST", path)).content)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, method: str, path: str) -> Call:
        return Call(method, path, time.monotonic() + self.timeout_s)

    def _send(self, call: Call) -> httpx.Response:
        attempt = 0
        while True:
            try:
                return checked(self._http.request(**call.arguments()))
            except httpx.TransportError as error:
                raise transport_failure(error, self._http.base_url) from error
            except errors.Unavailable as error:
                wait_s = call.wait_s(error, attempt)
            time.sleep(wait_s)
            attempt += 1


class AsyncClient:
    """The same for asyncio: `async with AsyncClient(url) as client: await client.edit(...)`."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        timeout_s: float = 120.0,
        transport: httpx.AsyncBaseTransport | None = None,
        api_key: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        self._http = httpx.AsyncClient(
            base_url=url,
            transport=transport,
            trust_env=not is_loopback(url),
            headers=key_header(api_key),
            verify=True if tls is None else tls,
        )

    async def edit(
        self,
        image: bytes | Path,
        instruction: str = "",
        plugins: Sequence[str] | None = None,
        mask: bytes | Path | None = None,
        **options: Unpack[EditOptions],
    ) -> EditResult:
        """Restore `image`; `plugins`, if given, run instead of what the instruction asks for."""
        data = edit_fields(instruction, plugins, options)
        call = await asyncio.to_thread(upload, "/v1/edit", image, data, self.timeout_s, mask)
        return edit_result(await self._send(call))

    async def submit(
        self,
        image: bytes | Path,
        instruction: str = "",
        plugins: Sequence[str] | None = None,
        mask: bytes | Path | None = None,
        **options: Unpack[EditOptions],
    ) -> Job:
        """Queue what edit() does and return its job; watch(), get() and result() tell the rest."""
        data = edit_fields(instruction, plugins, options)
        call = await asyncio.to_thread(
            upload, "/v1/edit", image, data, self.timeout_s, mask, RESPOND_ASYNC
        )
        return Job.model_validate_json((await self._send(call)).content)

    async def watch(self, job_id: str) -> AsyncIterator[Event]:
        """What happens to a job, from its start to its end; a broken connection is resumed."""
        reader, deadline = EventReader(), time.monotonic() + self.timeout_s
        while not reader.is_done:
            call = reader.call(job_id, deadline)
            call.check_deadline()
            try:
                async with self._http.stream(**call.arguments()) as answer:
                    if not answer.is_success:
                        await answer.aread()
                    async for line in checked(answer).aiter_lines():
                        for event in reader.read(line):
                            yield event
                        call.check_deadline()
            except (httpx.TransportError, errors.Unavailable) as error:
                await asyncio.sleep(call.pause_s(error))

    async def result(self, job_id: str) -> EditResult:
        """The result of a job that has succeeded; raises the error that it ended with."""
        return edit_result(await self._send(self._call("GET", f"/v1/edits/{job_id}/result")))

    async def plan(self, image: bytes | Path, instruction: str) -> Plan:
        """What edit() would run for that instruction."""
        data = {"instruction": instruction}
        call = await asyncio.to_thread(upload, "/v1/plan", image, data, self.timeout_s)
        return plan_of(await self._send(call))

    async def get(self, job_id: str) -> Job:
        """The job as it stands."""
        answer = await self._send(self._call("GET", f"/v1/edits/{job_id}"))
        return Job.model_validate_json(answer.content)

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job; one that has ended stays as it is."""
        answer = await self._send(self._call("POST", f"/v1/edits/{job_id}/cancel"))
        return Job.model_validate_json(answer.content)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _call(self, method: str, path: str) -> Call:
        return Call(method, path, time.monotonic() + self.timeout_s)

    async def _send(self, call: Call) -> httpx.Response:
        attempt = 0
        while True:
            try:
                return checked(await self._http.request(**call.arguments()))
            except httpx.TransportError as error:
                raise transport_failure(error, self._http.base_url) from error
            except errors.Unavailable as error:
                wait_s = call.wait_s(error, attempt)
            await asyncio.sleep(wait_s)
            attempt += 1
