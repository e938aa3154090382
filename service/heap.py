"""The C heap of a worker's process: what steps free stays, large tensors do not."""

import ctypes

# Tensors of at least this many bytes are mapped alone and given back when freed (glibc's most).
MAPPED_ALONE_BYTES = 32 * 1024**2
# So much free memory stays with the process instead of going back and forth to the kernel.
KEPT_FREE_BYTES = 1024**3
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # glibc's malloc.h


def keep_heap() -> None:
    """Call before any thread starts: they share one arena, whose size levels off.

    With an arena per thread the fragments of each let a worker's memory creep up for minutes.
    Does nothing where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_THRESHOLD, MAPPED_ALONE_BYTES)
    mallopt(_M_TRIM_THRESHOLD, KEPT_FREE_BYTES)
