"""Typed clients of the HTTP API, blocking and asyncio; they raise the errors of service.errors."""

import asyncio
import base64
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import httpx

from service import errors
from service.images import OutputFormat
from service.jobs import Job, Plan, Timings

MAX_BACKOFF_S = 8.0
# The server gives up first, so that its error arrives rather than a broken connection.
ANSWER_GRACE_S = 5.0


@dataclass(frozen=True)
class EditResult:
    """A restored photo, and how it came about."""

    image: bytes
    media_type: str
    plan: Plan
    seed: int
    job_id: str
    timings: Timings
    no_op: bool


@dataclass(frozen=True)
class Call:
    """One HTTP request, to be sent until it is answered or its deadline passes."""

    method: str
    path: str
    deadline: float  # of the monotonic clock
    data: dict[str, Any] | None = None
    image: bytes | None = None
    mask: bytes | None = None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of httpx's request(); the job's timeout is what time is left."""
        left_s = max(0.001, self.deadline - time.monotonic())
        arguments: dict[str, Any] = {
            "method": self.method,
            "url": self.path,
            "headers": {"Accept": "application/json"},
            "timeout": left_s + ANSWER_GRACE_S,
        }
        if self.image is not None:
            arguments["data"] = {**(self.data or {}), "timeout": f"{left_s:.3f}"}
            arguments["files"] = {"image": ("image", self.image)}
        if self.mask is not None:
            arguments["files"]["mask"] = ("mask", self.mask)
        return arguments

    def wait_s(self, error: errors.Unavailable, attempt: int) -> float:
        """Seconds before the next attempt; raises `error` if the deadline comes first."""
        # Jitter keeps clients that were refused together from coming back together.
        backoff_s = random.uniform(0.5, 1.0) * min(MAX_BACKOFF_S, 0.5 * 2.0**attempt)
        wait_s = error.retry_after_s + backoff_s
        if time.monotonic() + wait_s >= self.deadline:
            raise error
        return wait_s


class Client:
    """Blocking client: `with Client("http://127.0.0.1:8000") as client: client.edit(...)`."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        timeout_s: float = 120.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        self._http = httpx.Client(
            base_url=url, transport=transport, trust_env=not _is_loopback(url)
        )

    def edit(
        self,
        image: bytes | Path,
        instruction: str = "",
        plugins: Sequence[str] | None = None,
        steps: int | None = None,
        seed: int | None = None,
        output_format: OutputFormat = "png",
        output_quality: int | None = None,
        metadata: Literal["keep", "strip"] = "keep",
        mask: bytes | Path | None = None,
    ) -> EditResult:
        """Restore `image`; `plugins`, if given, run instead of what the instruction asks for."""
        data = _edit_fields(
            instruction, plugins, steps, seed, output_format, output_quality, metadata
        )
        return _edit_result(self._send(_upload("/v1/edit", image, data, self.timeout_s, mask)))

    def plan(self, image: bytes | Path, instruction: str) -> Plan:
        """What edit() would run for that instruction."""
        data = {"instruction": instruction}
        return _plan(self._send(_upload("/v1/plan", image, data, self.timeout_s)))

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
                return _checked(self._http.request(**call.arguments()))
            except httpx.TransportError as error:
                raise _transport_failure(error, self._http.base_url) from error
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
    ) -> None:
        self.timeout_s = timeout_s
        self._http = httpx.AsyncClient(
            base_url=url, transport=transport, trust_env=not _is_loopback(url)
        )

    async def edit(
        self,
        image: bytes | Path,
        instruction: str = "",
        plugins: Sequence[str] | None = None,
        steps: int | None = None,
        seed: int | None = None,
        output_format: OutputFormat = "png",
        output_quality: int | None = None,
        metadata: Literal["keep", "strip"] = "keep",
        mask: bytes | Path | None = None,
    ) -> EditResult:
        """Restore `image`; `plugins`, if given, run instead of what the instruction asks for."""
        data = _edit_fields(
            instruction, plugins, steps, seed, output_format, output_quality, metadata
        )
        call = await asyncio.to_thread(_upload, "/v1/edit", image, data, self.timeout_s, mask)
        return _edit_result(await self._send(call))

    async def plan(self, image: bytes | Path, instruction: str) -> Plan:
        """What edit() would run for that instruction."""
        data = {"instruction": instruction}
        call = await asyncio.to_thread(_upload, "/v1/plan", image, data, self.timeout_s)
        return _plan(await self._send(call))

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
                return _checked(await self._http.request(**call.arguments()))
            except httpx.TransportError as error:
                raise _transport_failure(error, self._http.base_url) from error
            except errors.Unavailable as error:
                wait_s = call.wait_s(error, attempt)
            await asyncio.sleep(wait_s)
            attempt += 1


def _edit_fields(
    instruction: str,
    plugins: Sequence[str] | None,
    steps: int | None,
    seed: int | None,
    output_format: OutputFormat,
    output_quality: int | None,
    metadata: str,
) -> dict[str, Any]:
    fields = {
        "instruction": instruction,
        "plugins": list(plugins) if plugins else None,
        "steps": steps,
        "seed": seed,
        "output_format": output_format,
        "output_quality": output_quality,
        "metadata": metadata,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _is_loopback(url: str) -> bool:
    """A proxy of the environment must not stand between two processes of one machine."""
    return httpx.URL(url).host in ("127.0.0.1", "::1", "localhost")


def _upload(
    path: str,
    image: bytes | Path,
    data: dict[str, Any],
    timeout_s: float,
    mask: bytes | Path | None = None,
) -> Call:
    deadline = time.monotonic() + timeout_s
    return Call("POST", path, deadline, data, _content(image), _content(mask) if mask else None)


def _content(file: bytes | Path) -> bytes:
    return file.read_bytes() if isinstance(file, Path) else file


def _edit_result(answer: httpx.Response) -> EditResult:
    body = answer.json()
    return EditResult(
        image=base64.b64decode(body["result"]["base64"]),
        media_type=body["result"]["media_type"],
        plan=Plan.model_validate(body["plan"] or {}),
        seed=body["seed"],
        job_id=body["id"],
        timings=Timings.model_validate(body["timings"]),
        no_op=body["no_op"],
    )


def _plan(answer: httpx.Response) -> Plan:
    return Plan.model_validate(answer.json()["plan"])


def _checked(answer: httpx.Response) -> httpx.Response:
    """The answer, or the error that its problem+json tells of."""
    if answer.is_success:
        return answer
    try:
        problem = answer.json()
        code, detail = problem["code"], problem["detail"]
    except (ValueError, KeyError, TypeError) as error:
        raise errors.DiffPluginError(f"HTTP {answer.status_code} from {answer.url}") from error
    kinds = {leaf.code: leaf for leaf in errors.leaves()}
    kind = kinds.get(code, errors.DiffPluginError)
    if issubclass(kind, errors.Unavailable):
        raise kind(detail, _retry_after_s(answer))
    raise kind(detail)


def _retry_after_s(answer: httpx.Response) -> int:
    text = answer.headers.get("retry-after", "")
    return int(text) if text.isdigit() else 1


def _transport_failure(error: httpx.TransportError, url: httpx.URL) -> errors.DiffPluginError:
    """Never retried: a server may have run the job whose answer was lost."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return errors.Unavailable(f"no server answers at {url}; is it running? ({error})")
    if isinstance(error, httpx.TimeoutException):
        return errors.DeadlineExceeded(f"{url} did not answer in time")
    return errors.DiffPluginError(f"the connection to {url} broke: {type(error).__name__}: {error}")
