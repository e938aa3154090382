"""Denoising steps in fixed buffers of a few batch sizes; on CUDA each size is one graph replay.

A batch is padded to the next size: zeros, which no other row reads. Rows of one size always run
the same kernels, so a row's bits do not depend on who is beside it.
"""

import logging
import weakref
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from service.engine.denoise_step import DenoiseStep
from service.engine.sampling import SamplerState

log = logging.getLogger(__name__)

BUCKETS = (1, 2, 4, 8, 16, 32)
MAX_KEPT = 16  # buffers, and graphs, of the shapes and sizes that were used last


class BucketedStep:
    """Called like DenoiseStep; a batch beyond the largest bucket runs as it is."""

    def __init__(self, step: DenoiseStep) -> None:
        self._step = step
        self._slots: OrderedDict[tuple[object, ...], _Slots] = OrderedDict()
        # One memory for all graphs: they never run at once, and keep nothing between two runs.
        self._pool = torch.cuda.graph_pool_handle() if torch.cuda.is_available() else None
        self.num_rows = self.num_slots = 0  # run so far; the rest of the slots was padding

    def __len__(self) -> int:
        """How many shapes and sizes have buffers now."""
        return len(self._slots)

    def __call__(
        self, state: SamplerState, context: Tensor, complement: Tensor, rows: Tensor
    ) -> SamplerState:
        size = next((bucket for bucket in BUCKETS if bucket >= len(rows)), 0)
        self.num_rows += len(rows)
        self.num_slots += size or len(rows)
        if not size:
            return self._step(state, context, complement, rows)
        key = (state.x.shape[1:], context.shape[1:], size)
        if key not in self._slots:
            self._make_room()
            inputs = (state, context, complement, rows)
            self._slots[key] = _Slots(self._step, size, self._pool, *inputs)
        self._slots.move_to_end(key)
        return self._slots[key].run(state, context, complement, rows)

    def _make_room(self) -> None:
        while len(self._slots) >= MAX_KEPT:
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # its last replay may be under way
            self._slots.popitem(last=False)


class _Slots:
    """Buffers of one shape and batch size. On CUDA its second run captures a graph."""

    def __init__(
        self,
        step: DenoiseStep,
        size: int,
        pool: Any,
        state: SamplerState,
        context: Tensor,
        complement: Tensor,
        rows: Tensor,
    ) -> None:
        def buffer(like: Tensor) -> Tensor:
            return like.new_zeros(size, *like.shape[1:])

        self._step, self._pool = step, pool
        self._state = SamplerState(*map(buffer, state))
        self._context, self._complement, self._rows = map(buffer, (context, complement, rows))
        self._given_state: SamplerState | None = None
        self._given_context: weakref.ref[Tensor] | None = None  # weak: it may be large
        self._graph: torch.cuda.CUDAGraph | None = None
        self._runs_until_capture = 1 if rows.is_cuda else -1  # the first run warms up

    def run(
        self, state: SamplerState, context: Tensor, complement: Tensor, rows: Tensor
    ) -> SamplerState:
        """The state returned is overwritten by the next run, unless it is handed in there."""
        num_rows = len(rows)
        if state is not self._given_state:
            for buffer, values in zip(self._state, state, strict=True):
                buffer[:num_rows] = values
                buffer[num_rows:] = 0
        if self._given_context is None or self._given_context() is not context:
            self._context[:num_rows] = context
        self._complement[:num_rows] = complement
        self._rows[:num_rows] = rows
        self._rows[num_rows:] = 0
        self._compute()
        self._given_context = weakref.ref(context)
        self._given_state = SamplerState(*(buffer[:num_rows] for buffer in self._state))
        return self._given_state

    def _compute(self) -> None:
        if self._runs_until_capture == 0:
            self._capture()
        self._runs_until_capture -= 1
        if self._graph is None:
            self._compute_eagerly()
        else:
            self._graph.replay()

    def _compute_eagerly(self) -> None:
        after = self._step(self._state, self._context, self._complement, self._rows)
        for buffer, values in zip(self._state, after, strict=True):
            buffer.copy_(values)

    def _capture(self) -> None:
        """A graph of the same work; if this GPU or its libraries refuse, it runs on without."""
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: plugins may be loaded by another thread meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                self._compute_eagerly()
        except RuntimeError as error:
            log.warning("steps of %d rows run without a CUDA graph: %s", len(self._rows), error)
        else:
            self._graph = graph
