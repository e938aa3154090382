"""Processes of one role on one queue, to be killed, frozen and started again.

They are forked from a process that has loaded torch already, so a restart takes little.
"""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from service.selector.process import run_selector
from service.settings import Settings
from service.worker_process import run_worker

STOP_TIMEOUT_S = 20.0

Serve = Callable[[Settings], None]


def serve_worker(settings: Settings) -> None:
    """What `diffplugin worker` runs."""
    asyncio.run(run_worker(settings))


def serve_selector(settings: Settings) -> None:
    """What `diffplugin selector` runs."""
    asyncio.run(run_selector(settings))


class Fleet:
    """`with Fleet(settings, 4) as fleet`; `serve` is what each of the processes runs."""

    def __init__(self, settings: Settings, num_processes: int, serve: Serve = serve_worker) -> None:
        self._settings, self._serve = settings, serve
        # They are independent: forked from here, they would share this process' event loop.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["loadtests.fleet"])
        self.processes: list[Any] = []
        self._num_processes = num_processes

    def __enter__(self) -> Self:
        for _ in range(self._num_processes):
            self.start_one()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self.processes:
            process.kill()
            process.join(STOP_TIMEOUT_S)

    def start_one(self) -> None:
        process = self._context.Process(target=self._serve, args=(self._settings,), daemon=True)
        process.start()
        self.processes.append(process)

    def kill(self, process: Any) -> None:
        """SIGKILL, as the kernel does when memory runs out."""
        process.kill()
        process.join(STOP_TIMEOUT_S)

    def replace_dead(self) -> int:
        """Start one for each that has ended; how many that were."""
        dead = [process for process in self.processes if not process.is_alive()]
        for process in dead:
            self.processes.remove(process)
            self.start_one()
        return len(dead)

    def process_of(self, worker: str) -> Any:
        """The process of a worker, by the name that jobs carry: it ends in its pid and an id."""
        return next(p for p in self.processes if f"-{p.pid}-" in worker)

    def send(self, worker: str, number: signal.Signals) -> None:
        os.kill(self.process_of(worker).pid, number)
