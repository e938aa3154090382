"""Where the queue's Redis is: one server by its URL, or the master that sentinels name."""

from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool

from service.errors import InvalidRequest
from service.queue_batching import BatchingRedis
from service.queue_packing import pack_in_c

SENTINEL = "redis+sentinel"
SENTINEL_PORT = 26379
FORMS = (
    "redis://host:6379/0, rediss://host:6379/0, unix:///path.sock, or with sentinels "
    "redis+sentinel://host:26379,host:26379/master/0"
)


def open_redis(url: str, **options: Any) -> Redis:
    """A client that connects at first use; InvalidRequest if `url` is no address of a Redis."""
    try:
        if not url.startswith(f"{SENTINEL}://"):
            client: Redis = BatchingRedis.from_url(url, **options)
            pack_in_c(client)
            return client
        address = SentinelAddress.parse(url)
    except ValueError:
        # The address may hold a password, so it is not repeated.
        raise InvalidRequest(
            f"DIFFPLUGIN_REDIS_URL is no address of a Redis; write {FORMS}"
        ) from None
    # Sentinels have no database and, here, no password; they are asked anew at each connection.
    asked = {"socket_timeout": 2.0, "socket_connect_timeout": 2.0}
    sentinel: Any = Sentinel(list(address.hosts), sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
    options |= {"db": address.database, "username": address.user, "password": address.password}
    client = sentinel.master_for(address.master, BatchingRedis, **options)
    pack_in_c(client)
    return client


async def close_redis(client: Redis) -> None:
    """Close its connections, and those to the sentinels that it asked."""
    pool = client.connection_pool
    await client.aclose()
    if isinstance(pool, SentinelConnectionPool):
        for asked in pool.sentinel_manager.sentinels:
            await asked.aclose()


@dataclass(frozen=True)
class SentinelAddress:
    """`user` and `password` are those of the master."""

    hosts: tuple[tuple[str, int], ...]
    master: str
    database: int = 0
    user: str | None = None
    password: str | None = None

    @classmethod
    def parse(cls, url: str) -> Self:
        """redis+sentinel://[user:password@]host[:port][,...]/master[/database]; else ValueError."""
        parts = urlsplit(url)
        login, _, places = parts.netloc.rpartition("@")
        user, _, password = login.partition(":")
        hosts = tuple(_host_and_port(place) for place in places.split(","))
        path = parts.path.strip("/").split("/")
        if not path[0] or len(path) > 2:
            raise ValueError("the name of the master is missing")
        database = int(path[1]) if len(path) == 2 else 0
        return cls(hosts, path[0], database, unquote(user) or None, unquote(password) or None)


def _host_and_port(place: str) -> tuple[str, int]:
    host, _, port = place.rpartition(":") if ":" in place else (place, "", str(SENTINEL_PORT))
    if not host:
        raise ValueError("the host of a sentinel is missing")
    return host.strip("[]"), int(port)
