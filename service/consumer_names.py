"""Names of workers and selectors, as consumers of the queue: role, host, process."""

import os
import socket
import uuid


def consumer_name(role: str) -> str:
    """A name that no other process has, or had."""
    return f"{role}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


def is_of_this_host(name: str) -> bool:
    """Whether consumer_name() made it here; hosts may have dashes in their names."""
    return "-".join(name.split("-")[1:-2]) == socket.gethostname()
