"""The objective: a bridge from the target to the noised condition."""

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from service.training import nano
from service.training.objective import bridge_latents, pixel_loss, sample_timesteps


def scheduler() -> DDIMScheduler:
    return nano.build_scheduler()


def latents(seed: int) -> Tensor:
    return torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(seed))


def test_at_the_last_timestep_the_bridge_is_the_noised_condition() -> None:
    z0, cond = latents(1), latents(2)
    last = torch.full((3,), nano.START_TIMESTEP)
    torch.manual_seed(5)
    bridged = bridge_latents(z0, cond, last, scheduler().alphas_cumprod)
    torch.manual_seed(5)
    noised = scheduler().add_noise(cond, torch.randn_like(z0), last)
    torch.testing.assert_close(bridged, noised, atol=1e-5, rtol=0)


def test_the_bridge_comes_closer_to_the_target_as_time_falls() -> None:
    z0, cond, alphas = latents(1), latents(2), scheduler().alphas_cumprod
    errors = []
    for t in (0, 10, 50, 100):
        torch.manual_seed(5)
        z = bridge_latents(z0, cond, torch.full((3,), t), alphas)
        errors.append(float((z - z0).abs().mean()))
    assert errors == sorted(errors)
    assert errors[0] < 0.15


def test_rows_of_the_bridge_are_at_their_own_timesteps() -> None:
    z0, cond, alphas = latents(1), latents(2), scheduler().alphas_cumprod
    torch.manual_seed(5)
    mixed = bridge_latents(z0, cond, torch.tensor([0, 50, 100]), alphas)
    torch.manual_seed(5)
    middle = bridge_latents(z0, cond, torch.full((3,), 50), alphas)
    torch.testing.assert_close(mixed[1], middle[1])
    assert not torch.allclose(mixed[0], middle[0])


def test_timesteps_stay_in_range_and_are_denser_near_the_start_of_sampling() -> None:
    torch.manual_seed(0)
    timesteps = sample_timesteps(10_000, 100, torch.device("cpu"))
    assert (int(timesteps.min()), int(timesteps.max())) == (0, 100)
    assert float(timesteps.float().mean()) == pytest.approx(100 * 2 / 3, abs=1)


def test_the_loss_is_zero_for_equal_images_and_grows_with_the_error() -> None:
    target = latents(1)
    assert float(pixel_loss(target, target)) == 0.0
    near, far = (float(pixel_loss(target + d * latents(2), target)) for d in (0.1, 0.2))
    assert 0 < near < far
