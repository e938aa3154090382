"""Work beside the denoising steps: on its own CUDA stream, or, on a CPU, simply at once."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


class Mark:
    """A point in a stream; on a CPU it is always past."""

    def __init__(self) -> None:
        self._event: torch.cuda.Event | None = None

    def record(self, stream: torch.cuda.Stream) -> None:
        self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._event.record(stream)

    @property
    def is_past(self) -> bool:
        return self._event is None or bool(self._event.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """Block this thread until it is past."""
        if self._event is not None:
            self._event.synchronize()


class SideStream:
    """A stream that the denoising does not wait for, and copies that do not block this thread."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def work(self) -> Iterator[Mark]:
        """What is started inside runs here, after all started so far; the mark is its end."""
        mark = Mark()
        if self._stream is None:
            yield mark
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield mark
        mark.record(self._stream)

    def lend(self, *tensors: Tensor | None) -> None:
        """Tensors that another stream than their own will read; their memory is kept until then."""
        if self._stream is None:
            return
        for tensor in tensors:
            if tensor is not None:
                tensor.record_stream(torch.cuda.default_stream(self._device))
                tensor.record_stream(self._stream)

    def upload(self, tensor: Tensor) -> Tensor:
        """To the device, through pinned memory."""
        if self._stream is None:
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def download(self, tensor: Tensor) -> Tensor:
        """To pinned host memory; there once the mark of this work is past."""
        if self._stream is None:
            return tensor
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return pinned.copy_(tensor, non_blocking=True)


class StepPacer:
    """Keeps this thread at most one step ahead of the device.

    So the device never waits for the host, and what the host reports is never far ahead of it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = Mark()

    def step_started(self) -> None:
        """Wait until the step before this one has run."""
        if self._device.type != "cuda":
            return
        before, self._last = self._last, Mark()
        self._last.record(torch.cuda.current_stream(self._device))
        before.wait()
