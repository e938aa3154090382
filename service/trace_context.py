"""W3C trace contexts: which trace a request or job belongs to. No tracing library is needed.

A `traceparent` is 00-<trace id>-<span id>-01, in lower-case hexadecimal.
"""

import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Self

_PATTERN = re.compile(r"[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-[0-9a-f]{2}")

# The context of the request that the current task serves; "" outside of one.
CURRENT: ContextVar[str] = ContextVar("traceparent", default="")


@dataclass(frozen=True)
class TraceContext:
    """One span: its trace, its own id, and the id of the span it is part of ("" for none)."""

    trace_id: str
    span_id: str
    parent_id: str = ""

    @classmethod
    def within(cls, traceparent: str) -> Self:
        """A new span within the given one; the first of a new trace if that is not valid."""
        found = _PATTERN.fullmatch(traceparent)
        if found is None or not int(found["trace"], 16) or not int(found["span"], 16):
            return cls(secrets.token_hex(16), secrets.token_hex(8))
        return cls(found["trace"], secrets.token_hex(8), found["span"])

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-01"


def trace_id_of(traceparent: str) -> str:
    """ "" if there is none."""
    found = _PATTERN.fullmatch(traceparent)
    return found["trace"] if found else ""
