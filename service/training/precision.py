"""Which number format training is fastest in on this machine."""

import torch


def fastest_precision() -> str:
    """ "bf16" where the device multiplies matrices in it, else "no": elsewhere it is emulated.

    A CPU without AMX or AVX512-BF16 takes about ten times as long in bf16 as in float32.
    """
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    units = torch.cpu.get_capabilities()
    return "bf16" if units.get("amx_bf16") or units.get("avx512_bf16") else "no"
