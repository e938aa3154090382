"""Linear layers in int8: close to the exact path, and refused where there are no kernels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from service.engine.edit import Edit
from service.engine.engine import build_engine
from service.engine.updates import EditDone
from service.errors import InvalidRequest
from service.images import Pixels
from service.models.int8_linears import quantise_linears
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin


def test_results_are_close_to_the_exact_ones(tmp_path: Path) -> None:
    write_tiny_base(tmp_path)
    write_tiny_plugin(tmp_path, "derain", 1)
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)

    def edited(int8: bool) -> Pixels:
        engine = build_engine(tmp_path, BASE, "cpu", 1, num_threads=1, int8=int8)
        engine.add(Edit("a", pixels, ("derain",)))
        while engine.has_work:
            for update in engine.step():
                if isinstance(update, EditDone):
                    return update.restored
        raise AssertionError("the edit did not end")

    difference = np.abs(edited(int8=True) - edited(int8=False))
    assert difference.max() > 0
    assert difference.mean() < 0.02


def test_another_device_is_refused_in_words() -> None:
    with pytest.raises(InvalidRequest, match="DIFFPLUGIN_INT8_UNET works on a CPU, not on meta"):
        quantise_linears(nn.Linear(2, 2, device=torch.device("meta")))
