"""Weights of a file in half the size of fp16: matrices as int8 rows with one scale each.

Only storage: `dequantised` gives float32 back, and reads files without scales as well.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

SCALE = ".scale"
LEVELS = 127  # symmetric: -127..127


def quantised(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices (rows, columns) as int8 with `name.scale` (rows, 1) in fp16; all else as fp16."""
    stored: dict[str, Tensor] = {}
    for name, value in state.items():
        if value.ndim != 2:
            stored[name] = value.half().contiguous()
            continue
        scale = (value.float().abs().amax(1, keepdim=True) / LEVELS).half()
        steps = value.float() / scale.float().clamp_min(1e-7)
        stored[name] = steps.round().clamp(-LEVELS, LEVELS).to(torch.int8).contiguous()
        stored[name + SCALE] = scale
    return stored


def dequantised(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor in float32."""
    return {
        name: value.float() * stored[name + SCALE].float()
        if name + SCALE in stored
        else value.float()
        for name, value in stored.items()
        if not name.endswith(SCALE)
    }
