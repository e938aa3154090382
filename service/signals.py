"""SIGTERM and SIGINT of every role: the first stops it in order, the second ends it at once."""

import asyncio
import os
import signal
from collections.abc import Callable

NUMBERS = (signal.SIGTERM, signal.SIGINT)


def stop_on_signals(stop: Callable[[], object]) -> None:
    """Call `stop` at the first signal; the running loop's process ends with code 1 at the second.

    What it held is taken over by others once its leases have run out.
    """
    is_stopping = False

    def handle() -> None:
        nonlocal is_stopping
        if is_stopping:
            os._exit(1)  # not sys.exit: it would wait for threads
        is_stopping = True
        stop()

    for number in NUMBERS:
        asyncio.get_running_loop().add_signal_handler(number, handle)
