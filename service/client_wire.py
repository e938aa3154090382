"""What the clients send, and how they read what comes back: calls, results, events, errors."""

import base64
import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypedDict

import httpx

from service import errors
from service.images import OutputFormat
from service.jobs import Plan, Timings
from service.queue_records import Event

MAX_BACKOFF_S = 8.0
# The server gives up first, so that its error arrives rather than a broken connection.
ANSWER_GRACE_S = 5.0
RECONNECT_S = 0.2
RESPOND_ASYNC = MappingProxyType({"Prefer": "respond-async"})


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
    versions: Mapping[str, str] = field(default_factory=dict)  # of the plugins it ran on


@dataclass(frozen=True)
class Call:
    """One HTTP request, to be sent until it is answered or its deadline passes."""

    method: str
    path: str
    deadline: float  # of the monotonic clock
    data: dict[str, Any] | None = None
    image: bytes | None = None
    mask: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of httpx's request(); the job's timeout is what time is left."""
        left_s = max(0.001, self.deadline - time.monotonic())
        arguments: dict[str, Any] = {
            "method": self.method,
            "url": self.path,
            "headers": {"Accept": "application/json", **self.headers},
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

    def check_deadline(self) -> None:
        if time.monotonic() > self.deadline:
            raise errors.DeadlineExceeded(f"{self.path} took longer than the client's timeout")

    def pause_s(self, error: Exception) -> float:
        """Seconds before a broken stream is taken up again; raises if there is no use."""
        if isinstance(error, errors.Unavailable):
            return self.wait_s(error, 0)
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            raise transport_failure(error, httpx.URL(self.path)) from error
        self.check_deadline()
        return RECONNECT_S


class EditOptions(TypedDict, total=False):
    """Fields of an edit as POST /v1/edit has them; what is left out has the service's default."""

    steps: int
    seed: int
    output_format: OutputFormat
    output_quality: int | None
    metadata: Literal["keep", "strip"]
    priority: Literal["high", "normal", "low"]
    strength: float
    plan: Plan
    previews: int
    webhook: str
    webhook_events_filter: Sequence[str]


def edit_fields(
    instruction: str, plugins: Sequence[str] | None, options: EditOptions
) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "instruction": instruction,
        "plugins": list(plugins) if plugins else None,
        **options,
    }
    if (plan := options.get("plan")) is not None:
        fields["plan"] = plan.model_dump_json()
    return {name: value for name, value in fields.items() if value is not None}


def is_loopback(url: str) -> bool:
    """A proxy of the environment must not stand between two processes of one machine."""
    return httpx.URL(url).host in ("127.0.0.1", "::1", "localhost")


def key_header(api_key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def upload(
    path: str,
    image: bytes | Path,
    data: dict[str, Any],
    timeout_s: float,
    mask: bytes | Path | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Call:
    deadline = time.monotonic() + timeout_s
    mask_content = None if mask is None else _content(mask)
    return Call("POST", path, deadline, data, _content(image), mask_content, headers)


def _content(file: bytes | Path) -> bytes:
    return file.read_bytes() if isinstance(file, Path) else file


def edit_result(answer: httpx.Response) -> EditResult:
    body = answer.json()
    return EditResult(
        image=base64.b64decode(body["result"]["base64"]),
        media_type=body["result"]["media_type"],
        plan=Plan.model_validate(body["plan"] or {}),
        seed=body["seed"],
        job_id=body["id"],
        timings=Timings.model_validate(body["timings"]),
        no_op=body["no_op"],
        versions=body["versions"],
    )


def plan_of(answer: httpx.Response) -> Plan:
    return Plan.model_validate(answer.json()["plan"])


def checked(answer: httpx.Response) -> httpx.Response:
    """The answer, read; or the error that its problem+json tells of."""
    if answer.is_success:
        return answer
    try:
        problem = json.loads(answer.text)
        code, detail = problem["code"], problem["detail"]
    except (ValueError, KeyError, TypeError) as error:
        raise errors.DiffPluginError(f"HTTP {answer.status_code} from {answer.url}") from error
    kind = errors.by_code(code)
    if issubclass(kind, errors.Unavailable):
        raise kind(detail, _retry_after_s(answer))
    raise kind(detail)


def _retry_after_s(answer: httpx.Response) -> int:
    text = answer.headers.get("retry-after", "")
    return int(text) if text.isdigit() else 1


def transport_failure(error: httpx.TransportError, url: httpx.URL) -> errors.DiffPluginError:
    """Never retried: a server may have run the job whose answer was lost."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return errors.Unavailable(f"no server answers at {url}; is it running? ({error})")
    if isinstance(error, httpx.TimeoutException):
        return errors.DeadlineExceeded(f"{url} did not answer in time")
    return errors.DiffPluginError(f"the connection to {url} broke: {type(error).__name__}: {error}")


class EventReader:
    """Lines of a text/event-stream -> events; it remembers the last id, to resume from."""

    def __init__(self, after: str = "") -> None:
        self.last_id = after
        self.is_done = False

    def read(self, line: str) -> Iterator[Event]:
        """The event that this line completes, if it does: its data is always one line."""
        name, _, value = line.partition(": ")
        if name == "id":
            self.last_id = value
        elif name == "data":
            event = Event.model_validate_json(value)
            self.is_done = event.status.is_final
            yield event

    def call(self, job_id: str, deadline: float) -> Call:
        """GET of the events that were not seen yet."""
        headers = {"Accept": "text/event-stream"}
        if self.last_id:
            headers["Last-Event-ID"] = self.last_id
        return Call("GET", f"/v1/edits/{job_id}/events", deadline, headers=headers)
