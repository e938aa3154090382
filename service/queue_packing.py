"""Commands to Redis packed by hiredis, in C: redis-py packs for asyncio in Python, one by one.

A job has some sixty arguments, and packing them was a third of the work of submitting it.
"""

from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection


class PackedInC(AbstractConnection):
    """Before a class of connections: its commands are bytes, str, int and float, and so packed."""

    def pack_command(self, *args: Any) -> list[bytes]:
        # Some of redis-py's commands are two words in one, as CONFIG GET.
        name = args[0].encode() if isinstance(args[0], str) else args[0]
        return [hiredis.pack_command((*name.split(), *args[1:]))]


def pack_in_c(client: Redis) -> None:
    """From now on, on every connection that the client opens."""
    pool = client.connection_pool
    kind = pool.connection_class
    pool.connection_class = type(f"Packed{kind.__name__}", (PackedInC, kind), {})
