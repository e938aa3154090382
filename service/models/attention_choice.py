"""Which attention kernel: measured once at start, on the device that will run it."""

import logging
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from service.models.attention import Attend

log = logging.getLogger(__name__)

# Self-attention of the largest level of a 512x512 edit, where most of the time goes.
ROWS, HEADS, POSITIONS, HEAD_DIM = 4, 8, 4096, 40
NUM_RUNS = 10


def fastest_attention(device: torch.device, dtype: torch.dtype) -> Attend:
    """torch's own on a CPU; on CUDA the faster of it and xformers, if that is installed."""
    candidates = {"torch": F.scaled_dot_product_attention} | _xformers()
    if device.type != "cuda" or len(candidates) == 1:
        return F.scaled_dot_product_attention
    seconds = {name: _seconds(attend, device, dtype) for name, attend in candidates.items()}
    fastest = min(seconds, key=lambda name: seconds[name])
    log.info("attention: %s (%s)", fastest, ", ".join(f"{n} {s:.2e} s" for n, s in seconds.items()))
    return candidates[fastest]


def _xformers() -> dict[str, Attend]:
    try:
        from xformers.ops import memory_efficient_attention  # optional: the extra `gpu`
    except ImportError:
        return {}

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        rows = [x.transpose(1, 2) for x in (query, key, value)]  # it wants (B, M, H, d)
        mixed: Tensor = memory_efficient_attention(*rows).transpose(1, 2)
        return mixed

    return {"xformers": attend}


@torch.inference_mode()
def _seconds(attend: Callable[..., Tensor], device: torch.device, dtype: torch.dtype) -> float:
    """Of one call; infinite if the kernel does not run on this device."""
    shape = (ROWS, HEADS, POSITIONS, HEAD_DIM)
    query, key, value = (torch.randn(shape, device=device, dtype=dtype) for _ in range(3))
    try:
        attend(query, key, value)
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        for _ in range(NUM_RUNS):
            attend(query, key, value)
        torch.cuda.synchronize(device)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        log.warning("an attention kernel is left out: %s", error)
        return float("inf")
    return (time.perf_counter() - began) / NUM_RUNS
