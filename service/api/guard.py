"""Who may do what, and how often: API keys of every wire. It knows no HTTP and no gRPC."""

import ipaddress
from pathlib import Path

from redis.asyncio import Redis

from service.api_keys import ApiKey, KeyFile, Scope
from service.errors import Forbidden, InvalidRequest, RateLimited, Unauthenticated
from service.queue_streams import outages_named
from service.settings import Settings

# A bucket of `per_minute` tokens that fills evenly. KEYS: bucket. ARGV: per minute.
# -> 0 if a token was taken, else the seconds until there is one.
TAKE_TOKEN = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local size = tonumber(ARGV[1])
local held = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = tonumber(held[1] or size)
tokens = math.min(size, tokens + (now - tonumber(held[2] or now)) * size / 60)
local wait = 0
if tokens >= 1 then tokens = tokens - 1 else wait = math.ceil((1 - tokens) * 60 / size) end
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', tostring(now))
redis.call('EXPIRE', KEYS[1], 120)
return wait
"""


class Guard:
    """Checks keys against a file, and their rates in Redis, so that every api counts together."""

    def __init__(self, redis: Redis, key_prefix: str, keys_file: Path | None) -> None:
        self._prefix = key_prefix
        self._keys = None if keys_file is None else KeyFile(keys_file)
        self._take_token = redis.register_script(TAKE_TOKEN)

    async def check(self, key: str, scope: Scope, is_work: bool) -> None:
        """Unauthenticated, Forbidden or RateLimited, unless the key may do that now.

        `is_work`: an edit or a plan, which count towards the key's rate. Without a file of keys
        everybody may edit, and nobody may administrate.
        """
        if self._keys is None and scope == "edit":
            return
        entry = self._keys.find(key) if self._keys is not None and key else None
        if entry is None:
            raise Unauthenticated(
                "send a valid API key: `Authorization: Bearer <key>` or `X-API-Key: <key>`"
            )
        if scope not in entry.scopes:
            raise Forbidden(f"the key {entry.name!r} has not the scope {scope!r}")
        if is_work and entry.per_minute:
            await self._check_rate(entry)

    async def _check_rate(self, entry: ApiKey) -> None:
        bucket = f"{self._prefix}:rate:{entry.name}"
        with outages_named():
            wait_s = int(await self._take_token([bucket], [entry.per_minute]))
        if wait_s:
            raise RateLimited(
                f"the key {entry.name!r} may send {entry.per_minute} edits and plans a minute",
                retry_after_s=wait_s,
            )


def bearer(authorization: str, api_key: str) -> str:
    """The key of the headers `authorization` and `x-api-key`; empty if there is none."""
    kind, _, value = authorization.partition(" ")
    return value.strip() if kind.lower() == "bearer" else api_key


def check_exposure(settings: Settings) -> None:
    """InvalidRequest if strangers could reach a service that asks for no key."""
    if settings.api_keys_file is not None:
        if not KeyFile(settings.api_keys_file).all():
            raise InvalidRequest(
                f"{settings.api_keys_file} has no key; make one: diffplugin keys create NAME"
            )
        return
    if not (is_loopback(settings.host) or settings.allow_anonymous):
        raise InvalidRequest(
            f"{settings.host} can be reached from outside of this machine, and there are no API "
            "keys: set DIFFPLUGIN_API_KEYS_FILE (diffplugin keys create NAME --file keys.json), "
            "or DIFFPLUGIN_ALLOW_ANONYMOUS=true if something in front of it checks who calls"
        )


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name may mean anything
