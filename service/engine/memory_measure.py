"""How much memory there is, and how much of it something takes: measured, never guessed."""

import contextlib
import ctypes
import re
from collections.abc import Callable
from pathlib import Path

import torch

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # proc(5): the peak resident set starts anew
MEMINFO = Path("/proc/meminfo")
CGROUP_2, CGROUP_1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")


def can_measure(device: torch.device) -> bool:
    """CUDA's allocator keeps its peak; on a CPU it is Linux that does."""
    return device.type == "cuda" or (CLEAR_REFS.exists() and MEMINFO.exists())


def peak_bytes(device: torch.device, run: Callable[[], object]) -> int:
    """The most that `run` takes at any moment beyond what is taken before it.

    On CUDA of memory that torch reserves, which counts its fragments; on a CPU of resident memory.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_reserved(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_reserved(device) - before
    _give_back()
    CLEAR_REFS.write_text(RESET_PEAK)
    before = _field(STATUS, "VmRSS")
    run()
    return max(0, _field(STATUS, "VmHWM") - before)


def free_bytes(device: torch.device) -> int:
    """Of the GPU; or of this machine, or of its part that this container may use."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    _give_back()
    return min(_field(MEMINFO, "MemAvailable"), *_left_in_containers())


def _left_in_containers() -> list[int]:
    """Up to the limit of this process' control group, where there is one (versions 2 and 1)."""
    files = (
        (CGROUP_2, "memory.max", "memory.current", "inactive_file"),
        (CGROUP_1, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    )
    left = []
    for folder, limit, usage, cached in files:
        with contextlib.suppress(OSError, ValueError):  # no such file; or `max`, which is no limit
            most, used = (int((folder / name).read_text()) for name in (limit, usage))
            found = re.search(rf"^{cached} (\d+)$", (folder / "memory.stat").read_text(), re.M)
            left.append(max(0, most - used + int(found[1] if found else 0)))
    return left


def _give_back() -> None:
    """Freed memory to the system, so that the next peak counts it again."""
    with contextlib.suppress(OSError, AttributeError):  # a C library without it
        ctypes.CDLL(None).malloc_trim(0)


def _field(file: Path, name: str) -> int:
    """A line like `VmRSS:   1234 kB` in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", file.read_text(), re.M)
    assert found is not None, f"{file} has no {name}. This is a bug."
    return 1024 * int(found[1])
