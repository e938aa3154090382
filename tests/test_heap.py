"""The heap of a worker keeps what steps free for the next steps, and gives large blocks back."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import threading
from pathlib import Path
import numpy as np
from service.heap import keep_heap

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

def steps(count, mb):
    blocks = [np.ones(mb * 10**6, np.uint8) for _ in range(count)]

def of_a_thread(count, mb):
    thread = threading.Thread(target=steps, args=(count, mb))
    thread.start()
    thread.join()
    return resident_mb()

{call}
before = resident_mb()
print(of_a_thread(100, 1) - before, of_a_thread(100, 1) - before, of_a_thread(2, 100) - before)
"""


def _growth_mb(call: str) -> list[float]:
    """After a thread took and freed 100 MB in small blocks; another too; 200 MB in large."""
    program = [sys.executable, "-c", PROGRAM.replace("{call}", call)]
    answer = subprocess.run(program, capture_output=True, text=True, check=True)
    return [float(word) for word in answer.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heap is set up for glibc alone")
def test_what_steps_freed_is_kept_for_those_of_any_thread_and_large_blocks_go_back() -> None:
    first, second, large = _growth_mb("keep_heap()")
    assert first > 90  # kept
    assert second < first + 10  # used again, by another thread
    assert large < first + 10  # given back
    assert _growth_mb("")[0] < 50  # what it is without
