"""A fleet of workers as a discrete-event simulation: when does each job of some traffic end?

It follows the rules of service.worker and service.engine: an idle worker takes a job at once; a
busy one claims while a step runs, as many as it has places for, and they join at the next step;
a step advances all rows of its worker. One size of photo; no job fails. Times are in seconds.
"""

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MAX_STALL = 0.5  # of a step, for admitting while others denoise: service.engine.engine


@dataclass(frozen=True)
class StepTimes:
    """What was measured of one worker.

    step_s: of a step by its rows, {1: 0.02, 8: 0.06}; between them it is interpolated.
    prepare_s, finish_s: of a task before and after its steps, on the engine's thread.
    outside_s: of a job outside of the engine: front end, queue, image files.
    """

    step_s: dict[int, float]
    num_steps: int
    prepare_s: float = 0.0
    finish_s: float = 0.0
    outside_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.step_s or min(self.step_s) < 1 or min(self.step_s.values()) <= 0:
            raise ValueError("step times need rows >= 1 and seconds > 0")
        if self.num_steps < 1 or min(self.prepare_s, self.finish_s, self.outside_s) < 0:
            raise ValueError("steps must be at least 1, and no time negative")

    def by_rows(self, max_rows: int) -> list[float]:
        """Seconds of a step of 0, 1 .. max_rows rows; beyond the last by its slope."""
        known = sorted(self.step_s.items())
        rows, seconds = np.array(known, float).T
        found = np.interp(np.arange(max_rows + 1), rows, seconds)
        if max_rows > rows[-1]:
            before, last = ([(0, 0.0), *known])[-2:]
            slope = (last[1] - before[1]) / (last[0] - before[0])
            more = np.arange(1, max_rows - last[0] + 1)
            found[last[0] + 1 :] = last[1] + slope * more
        return [float(value) for value in found]

    def edits_per_s(self, max_rows: int, num_tasks: float = 1.0) -> float:
        """The most that one worker can do: all its places always taken."""
        serial_s = max_rows * (self.prepare_s + self.finish_s)
        return max_rows / (num_tasks * (self.num_steps * self.by_rows(max_rows)[-1] + serial_s))

    @property
    def alone_s(self) -> float:
        """One job of one task in an idle fleet."""
        steps_s = self.num_steps * self.by_rows(1)[1]
        return self.outside_s + self.prepare_s + steps_s + self.finish_s


@dataclass(frozen=True)
class Simulated:
    """`latencies_s` by job, in order of arrival; `utilisation`: share of time that workers work."""

    latencies_s: Floats
    utilisation: float
    mean_rows: float


def simulate(
    arrivals_s: Sequence[float] | Floats,
    times: StepTimes,
    num_workers: int,
    max_rows: int = 8,
    num_tasks: Sequence[int] | NDArray[np.int64] | None = None,
) -> Simulated:
    """Run all jobs to their end. `arrivals_s` ascend; `num_tasks` by job, default one each."""
    assert all(a <= b for a, b in pairwise(arrivals_s[:1000])), "arrivals ascend"
    tasks = [1] * len(arrivals_s) if num_tasks is None else list(num_tasks)
    fleet = _Fleet(list(arrivals_s), tasks, times, num_workers, max_rows)
    ends = fleet.run()
    latencies = np.asarray(ends) - np.asarray(arrivals_s, float) + times.outside_s
    span = max(ends) - arrivals_s[0] if len(ends) else 1.0
    rows = fleet.rows_s / fleet.busy_s if fleet.busy_s else 0.0
    return Simulated(latencies, fleet.busy_s / (num_workers * span), rows)


class _Worker:
    """Rows in their steps, and what was claimed and joins at the next one."""

    __slots__ = ("boundaries", "claimed", "num_rows", "step", "waiting")

    def __init__(self) -> None:
        self.step = 0
        self.num_rows = 0
        # By number of the step, jobs of which a task ends with it.
        self.boundaries: dict[int, list[int]] = {}
        self.waiting: deque[int] = deque()  # in the engine, not prepared yet
        self.claimed: list[int] = []


class _Fleet:
    def __init__(
        self,
        arrivals: list[float],
        tasks: list[int],
        times: StepTimes,
        num_workers: int,
        max_rows: int,
    ) -> None:
        self._arrivals, self._left = arrivals, tasks
        self._times, self._max_rows = times, max_rows
        self._step_s = times.by_rows(max_rows)
        self._workers = [_Worker() for _ in range(num_workers)]
        self._idle = list(range(num_workers - 1, -1, -1))
        self._queue: deque[int] = deque()
        self._ends = [0.0] * len(arrivals)
        self._events: list[tuple[float, int]] = []  # ends of steps: (time, worker)
        self.busy_s = self.rows_s = 0.0

    def run(self) -> list[float]:
        for job, at in enumerate(self._arrivals):
            while self._events and self._events[0][0] <= at:
                self._end_step()
            if self._idle:
                number = self._idle.pop()
                self._workers[number].waiting.append(job)
                self._start_step(at, number)
            else:
                self._queue.append(job)
        while self._events:
            self._end_step()
        return self._ends

    def _start_step(self, now: float, number: int) -> None:
        worker, times = self._workers[number], self._times
        seconds = self._admit(worker)
        step_s = self._step_s[worker.num_rows]
        worker.step += 1
        worker.claimed = self._claim(worker)
        ending = worker.boundaries.get(worker.step)
        if ending:
            seconds += times.finish_s * len(ending)
        elif not worker.claimed and not worker.waiting and worker.num_rows == self._max_rows:
            # Full: nothing can happen before the next task ends, so these steps are one event.
            more = min(worker.boundaries) - 1 - worker.step
            worker.step += more
            step_s *= 1 + more
        seconds += step_s
        self.busy_s += seconds
        self.rows_s += seconds * worker.num_rows
        heapq.heappush(self._events, (now + seconds, number))

    def _admit(self, worker: _Worker) -> float:
        """Prepare what waits in the engine; seconds that it takes."""
        prepare_s = self._times.prepare_s
        num = len(worker.waiting)
        if worker.num_rows and prepare_s:
            num = min(num, 1 + int(MAX_STALL * self._step_s[worker.num_rows] / prepare_s))
        if num:
            last = worker.step + self._times.num_steps
            joined = [worker.waiting.popleft() for _ in range(num)]
            worker.boundaries.setdefault(last, []).extend(joined)
            worker.num_rows += num
        return num * prepare_s

    def _claim(self, worker: _Worker) -> list[int]:
        room = self._max_rows - worker.num_rows - len(worker.waiting)
        return [self._queue.popleft() for _ in range(min(room, len(self._queue)))]

    def _end_step(self) -> None:
        now, number = heapq.heappop(self._events)
        worker = self._workers[number]
        for job in worker.boundaries.pop(worker.step, ()):
            worker.num_rows -= 1
            self._left[job] -= 1
            if self._left[job]:
                worker.waiting.append(job)
            else:
                self._ends[job] = now
        worker.waiting.extend(worker.claimed)
        if not worker.num_rows and not worker.waiting:
            worker.waiting.extend(self._claim(worker))
        if worker.num_rows or worker.waiting:
            self._start_step(now, number)
        else:
            worker.claimed = []
            self._idle.append(number)
