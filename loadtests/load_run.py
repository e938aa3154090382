"""Runs Locust users against a service for a while, and keeps every answer and the memory used.

Importing it patches sockets and threads of this process, as Locust does: it is for scripts alone.
"""

from locust import User  # first, so that everything after it is patched
from locust.env import Environment

# isort: split
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gevent

from loadtests.locust_users import Caller
from loadtests.process_memory import MemoryLog
from loadtests.slo_report import Answer
from loadtests.traffic import Mix

SAMPLE_PAUSE_S = 1.0


@dataclass(frozen=True)
class Load:
    """`users`: how many of each class; `pacing_s`: of one of them, by the seconds since start."""

    users: Mapping[type[User], int]
    mix: Mix
    pacing_s: Callable[[float], float]
    seconds: float

    @property
    def num_users(self) -> int:
        return sum(self.users.values())


def run_load(load: Load, url: str, grpc_port: int, memory: MemoryLog | None = None) -> list[Answer]:
    """Every answer, its time counted from the start of the load; unfinished ones are waited for."""
    began = time.monotonic()
    Caller.mix = load.mix
    Caller.pacing = staticmethod(lambda: load.pacing_s(time.monotonic() - began))
    Caller.grpc_target = f"127.0.0.1:{grpc_port}"
    for kind, number in load.users.items():
        kind.weight, kind.fixed_count = 1, number
    environment = Environment(user_classes=list(load.users), host=url, stop_timeout=120)
    answers: list[Answer] = []
    environment.events.request.add_listener(_listener(answers, began))
    runner = environment.create_local_runner()
    runner.start(load.num_users, spawn_rate=100)
    sampling = gevent.spawn(_sample, memory) if memory else None
    gevent.sleep(load.seconds)
    runner.quit()  # users end their last request
    runner.greenlet.join()
    if sampling:
        sampling.kill()
    return answers


def _listener(answers: list[Answer], began: float) -> Callable[..., None]:
    def note(name: str, response_time: float, exception: Exception | None, **_: Any) -> None:
        now = time.monotonic() - began
        answers.append(Answer(now, name, response_time / 1e3, str(exception or "")))

    return note


def _sample(memory: MemoryLog) -> None:
    while True:
        memory.take()
        gevent.sleep(SAMPLE_PAUSE_S)
