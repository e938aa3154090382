"""API keys: a file of their hashes, scopes and rates. A key itself is shown once and kept nowhere.

Keys are 256 random bits, so one SHA-256 is enough: there is nothing to guess by trying words.
"""

import hashlib
import hmac
import json
import os
import secrets
import time
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from service.errors import InvalidRequest
from service.jobs import Record

Scope = Literal["edit", "admin"]

PREFIX = "dp_"  # so that scanners of repositories can find a key that was committed
MIN_GIVEN_CHARS = 32  # shorter ones could be guessed from their hash


class ApiKey(Record):
    """What is kept of a key."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[Scope, ...]
    per_minute: int = Field(0, ge=0)  # edits and plans; 0: no limit
    created_at: float


class KeyFile:
    """The file; read again whenever it has changed, so that a removed key ends at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._keys: tuple[ApiKey, ...] = ()
        self._version = (-1, -1)

    def all(self) -> tuple[ApiKey, ...]:
        """Every key; none if the file is not there. InvalidRequest if it cannot be read."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return ()
        version = (stat.st_mtime_ns, stat.st_size)
        if version != self._version:
            self._keys, self._version = self._read(), version
        return self._keys

    def find(self, key: str) -> ApiKey | None:
        """The entry of a key. It takes the same time whichever matches, or none."""
        digest, found = _digest(key), None
        for entry in self.all():
            if hmac.compare_digest(digest, entry.sha256):
                found = entry
        return found

    def create(self, name: str, scopes: tuple[Scope, ...], per_minute: int = 0) -> str:
        """Add a key and return it; nobody can tell it again."""
        key = PREFIX + secrets.token_urlsafe(32)
        self.add(key, name, scopes, per_minute)
        return key

    def add(self, key: str, name: str, scopes: tuple[Scope, ...], per_minute: int = 0) -> None:
        """Add a key that was made elsewhere. InvalidRequest if it is short or its name is taken."""
        if len(key) < MIN_GIVEN_CHARS:
            raise InvalidRequest(
                f"the key has {len(key)} characters and needs at least {MIN_GIVEN_CHARS} random "
                "ones, e.g. the output of: openssl rand -hex 32"
            )
        values = {"name": name, "sha256": _digest(key), "scopes": scopes}
        try:
            entry = ApiKey.model_validate(
                {**values, "per_minute": per_minute, "created_at": time.time()}
            )
        except ValidationError as error:
            raise InvalidRequest(
                f"{name!r} is no name of a key; use lower-case letters, digits, - and _"
            ) from error
        if any(known.name == name for known in self.all()):
            raise InvalidRequest(f"there is a key {name!r} already; remove it first")
        self._write((*self.all(), entry))

    def remove(self, name: str) -> None:
        kept = tuple(entry for entry in self.all() if entry.name != name)
        if len(kept) == len(self.all()):
            raise InvalidRequest(f"there is no key {name!r} in {self.path}")
        self._write(kept)

    def _read(self) -> tuple[ApiKey, ...]:
        try:
            entries = json.loads(self.path.read_bytes())["keys"]
            return tuple(ApiKey.model_validate(entry) for entry in entries)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidRequest(f"{self.path} is no file of API keys: {error}") from error

    def _write(self, entries: tuple[ApiKey, ...]) -> None:
        """In one step: a reader meets the old file or the new one."""
        text = json.dumps({"keys": [entry.model_dump() for entry in entries]}, indent=2)
        partial = self.path.with_name(self.path.name + ".partial")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text + "\n")
        partial.replace(self.path)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
