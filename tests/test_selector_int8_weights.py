"""int8 rows with a scale each: near to the weights, and stable when written again."""

import torch

from service.selector.int8_weights import dequantised, quantised


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(8, 32, generator=generator) * torch.logspace(-3, 1, 8)[:, None]
    rows[3] = 0.0
    return {"linear.weight": rows, "linear.bias": torch.randn(8, generator=generator)}


def test_every_row_is_within_half_a_step_of_its_own_scale() -> None:
    before = weights()
    after = dequantised(quantised(before))
    step = before["linear.weight"].abs().amax(1, keepdim=True) / 127
    assert ((after["linear.weight"] - before["linear.weight"]).abs() <= 0.6 * step + 1e-7).all()
    assert torch.allclose(after["linear.bias"], before["linear.bias"], rtol=1e-3)


def test_a_matrix_takes_one_byte_per_weight_and_vectors_two() -> None:
    stored = quantised(weights())
    assert stored["linear.weight"].dtype == torch.int8
    assert stored["linear.weight.scale"].shape == (8, 1)
    assert stored["linear.bias"].dtype == torch.float16


def test_writing_again_changes_nothing() -> None:
    once = quantised(weights())
    again = quantised(dequantised(once))
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_weights_without_scales_are_read_too() -> None:
    half = {name: value.half() for name, value in weights().items()}
    read = dequantised(half)
    assert set(read) == set(half)
    assert all(value.dtype == torch.float32 for value in read.values())
