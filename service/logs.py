"""Log lines of every role, plain or JSON, with the ids of the job and request they are about.

A line names its job by `log.info("...", extra=about(job))`.
"""

import json
import logging
import sys
import time

from service.jobs import Job, Timings
from service.trace_context import trace_id_of

CONTEXT_FIELDS = (
    "job_id",
    "trace_id",
    "request_id",
    "worker",
    "route",
    "status",
    "duration_ms",
    "timings",
)


def about(job: Job, timings: Timings | None = None) -> dict[str, object]:
    """The `extra` of a line about a job; `timings` as metrics, headers and spans have them."""
    context: dict[str, object] = {"job_id": job.id}
    if trace_id := trace_id_of(job.traceparent):
        context["trace_id"] = trace_id
    if timings is not None:
        context["timings"] = timings.model_dump()
    return context


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _utc(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_context(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class PlainFormatter(logging.Formatter):
    """Time, level, logger, message, then the ids."""

    def format(self, record: logging.LogRecord) -> str:
        context = " ".join(f"{name}={value}" for name, value in _context(record).items())
        parts = [_utc(record), f"{record.levelname:<7}", record.name, record.getMessage(), context]
        line = " ".join(part for part in parts if part)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def setup_logging(as_json: bool = False, level: str = "INFO") -> None:
    """Send every logger's lines to stderr; call once, at the process edge."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else PlainFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # They log every request that the client and the api's own line already tell of.
    for noisy in ("httpx", "httpcore", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _context(record: logging.LogRecord) -> dict[str, object]:
    return {name: getattr(record, name) for name in CONTEXT_FIELDS if hasattr(record, name)}


def _utc(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"
