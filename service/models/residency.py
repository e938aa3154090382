"""Plugins in three places: disk, pinned host memory, device. Least recently used leaves first.

Budgets are bytes. What a running edit holds stays alive until it ends, evicted or not.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import torch
from torch import nn

from service.models.plugin import Plugin

Key = tuple[str, str]  # name and digest
Read = Callable[[], Plugin]
MIB = 2**20


@dataclass
class Residency:
    """What became of the plugins' weights so far, for those who measure it."""

    num_hits: int = 0  # a plugin was asked for and on the device
    num_host_hits: int = 0  # it was in host memory, one copy away
    num_misses: int = 0  # it had to be loaded from disk
    num_evictions: int = 0  # from the device
    load_s: float = 0.0  # of all that were not hits
    resident_bytes: int = 0  # on the device


@dataclass
class Tier:
    """Plugins by key, in the order of their last use."""

    max_bytes: int
    plugins: OrderedDict[Key, Plugin] = field(default_factory=OrderedDict)
    num_bytes: int = 0

    def put(self, key: Key, plugin: Plugin) -> int:
        """Newest last; returns how many had to leave. The newest stays, whatever its size."""
        if (before := self.plugins.pop(key, None)) is not None:
            self.num_bytes -= before.num_bytes
        self.plugins[key] = plugin
        self.num_bytes += plugin.num_bytes
        num_evicted = 0
        while len(self.plugins) > 1 and self.num_bytes > self.max_bytes:
            _, oldest = self.plugins.popitem(last=False)
            self.num_bytes -= oldest.num_bytes
            num_evicted += 1
        return num_evicted


class ResidentPlugins:
    """get() one on the device; prefetch() it while its edit waits."""

    def __init__(
        self,
        device: torch.device,
        max_bytes: int,
        max_host_bytes: int,
        has_host_tier: bool | None = None,
    ) -> None:
        """has_host_tier None: only where the device has a memory of its own."""
        self.counts = Residency()
        self._device, self._tier = device, Tier(max_bytes)
        has_host = device.type == "cuda" if has_host_tier is None else has_host_tier
        self._host = Tier(max_host_bytes) if has_host else None
        self._coming: dict[Key, Future[Plugin]] = {}
        self._lock = Lock()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="plugins")

    @property
    def plugins(self) -> tuple[tuple[Key, Plugin], ...]:
        """What is on the device, the one used last at the end."""
        with self._lock:
            return tuple(self._tier.plugins.items())

    @property
    def is_full(self) -> bool:
        """One more of the size that they have would push another out."""
        with self._lock:
            used, count = self._tier.num_bytes, len(self._tier.plugins)
            return count > 0 and used + used // count > self._tier.max_bytes

    @property
    def bytes_to_come(self) -> int:
        """What may be added to the device before the first has to leave."""
        with self._lock:
            return max(0, self._tier.max_bytes - self._tier.num_bytes)

    def get(self, key: Key, read: Read) -> Plugin:
        """On the device, from wherever it is; `read` has it from disk into host memory."""
        with self._lock:
            held, coming = self._tier.plugins.get(key), self._coming.get(key)
            if held is not None:
                self.counts.num_hits += 1
                self._tier.plugins.move_to_end(key)
                return held
        return coming.result() if coming else self._bring(key, read)

    def prefetch(self, key: Key, read: Read) -> None:
        """Begin to bring it, in a thread of its own, unless it is there or on its way."""
        with self._lock:
            if key not in self._tier.plugins and key not in self._coming:
                self._coming[key] = self._loader.submit(self._bring_ahead, key, read)

    @property
    def num_coming(self) -> int:
        return len(self._coming)

    def is_coming(self, key: Key) -> bool:
        """It is on its way; get() would wait for it."""
        with self._lock:
            return key in self._coming

    def replace(self, key: Key, plugin: Plugin) -> None:
        """The same weights under another description."""
        with self._lock:
            if key in self._tier.plugins:
                self._tier.plugins[key] = plugin

    def _bring_ahead(self, key: Key, read: Read) -> Plugin:
        try:
            return self._bring(key, read)
        finally:
            with self._lock:
                self._coming.pop(key, None)

    def _bring(self, key: Key, read: Read) -> Plugin:
        start = time.perf_counter()
        with self._lock:
            on_host = self._host.plugins.get(key) if self._host else None
        plugin = self._on_device(key, on_host or read())
        with self._lock:
            counts = self.counts
            counts.num_evictions += self._tier.put(key, plugin)
            counts.num_host_hits += on_host is not None
            counts.num_misses += on_host is None
            counts.load_s += time.perf_counter() - start
            counts.resident_bytes = self._tier.num_bytes
        return plugin

    def _on_device(self, key: Key, plugin: Plugin) -> Plugin:
        """A copy there; without a host tier the plugin itself moves."""
        if self._host is None:
            return plugin.to(self._device)
        if self._device.type == "cuda":
            _pin(plugin)
        with self._lock:
            self._host.put(key, plugin)
        copied = _copy_to(self._device, plugin)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        return copied


def _copy_to(device: torch.device, plugin: Plugin) -> Plugin:
    """Straight from where its weights lie: deepcopy alone would bring them out of pinned memory."""
    copies: dict[int, Any] = {}
    for weights in plugin.parameters():
        copy = weights.detach().to(device, non_blocking=True, copy=True)
        copies[id(weights)] = nn.Parameter(copy, requires_grad=False)
    for buffer in plugin.buffers():
        copies[id(buffer)] = buffer.to(device, non_blocking=True, copy=True)
    return deepcopy(plugin, copies)


def _pin(plugin: Plugin) -> None:
    """So that a copy to the device needs no staging and blocks nothing."""
    for tensor in (*plugin.parameters(), *plugin.buffers()):
        if not tensor.is_pinned():
            tensor.data = tensor.data.pin_memory()
