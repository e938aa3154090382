"""Lossy: the UNet's linear layers in int8, weights ahead and activations as they come. CPU only.

torch's own dynamic quantisation: a scale for each tensor of activations is found at each call.
"""

import warnings

import torch
from torch import nn

from service.errors import InvalidRequest


def quantise_linears(unet: nn.Module) -> int:
    """In place; how many there were. InvalidRequest on a device that has no such kernels."""
    device = next(unet.parameters()).device
    if device.type != "cpu":
        raise InvalidRequest(
            f"DIFFPLUGIN_INT8_UNET works on a CPU, not on {device}: leave it out there"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is going to move to torchao
        torch.ao.quantization.quantize_dynamic(unet, {nn.Linear}, dtype=torch.qint8, inplace=True)  # type: ignore[no-untyped-call]
    return sum(isinstance(m, torch.ao.nn.quantized.dynamic.Linear) for m in unet.modules())
