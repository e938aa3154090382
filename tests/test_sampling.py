"""Table samplers against the closed form and against diffusers' own schedulers."""

from collections.abc import Callable

import pytest
import torch
from diffusers import DDIMScheduler, UniPCMultistepScheduler
from torch import Tensor

from service.engine.sampling import NoiseSchedule, SamplerState, StepTable, update

BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
UNIPC = {"_class_name": "UniPCMultistepScheduler", **BETAS}
DDIM = {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing", **BETAS}
Model = Callable[[Tensor, float], Tensor]


def sample(table: StepTable, model: Model, x: Tensor) -> Tensor:
    state = SamplerState.start(x)
    for t, row in zip(table.timesteps, table.rows, strict=True):
        state = update(state, model(state.x, float(t)), row[None].expand(len(x), -1))
    return state.x


def some_model(x: Tensor, t: float) -> Tensor:
    weight = torch.linspace(-0.4, 0.4, 16).view(4, 4)
    return torch.tanh(torch.einsum("oc,bchw->bohw", weight, x) + t / 1000)


# diffusers' UniPC itself uses a numpy call that is going away.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [1, 2, 3, 8, 20])
def test_unipc_equals_diffusers(prediction_type: str, steps: int) -> None:
    reference = UniPCMultistepScheduler(
        **BETAS, prediction_type=prediction_type, final_sigmas_type="sigma_min"
    )
    config = {**UNIPC, "prediction_type": prediction_type}
    assert_equal_to(reference, config, steps)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("set_alpha_to_one", [True, False])
# diffusers steps by T // n, so its DDIM visits its own timesteps only where n divides T.
@pytest.mark.parametrize("steps", [1, 2, 8, 20])
def test_ddim_equals_diffusers(prediction_type: str, set_alpha_to_one: bool, steps: int) -> None:
    extra = {"prediction_type": prediction_type, "set_alpha_to_one": set_alpha_to_one}
    reference = DDIMScheduler(**BETAS, **extra, timestep_spacing="trailing", clip_sample=False)
    assert_equal_to(reference, {**DDIM, **extra}, steps)


def assert_equal_to(
    reference: DDIMScheduler | UniPCMultistepScheduler, config: dict[str, object], steps: int
) -> None:
    table = NoiseSchedule.from_config(config).table(steps)
    reference.set_timesteps(steps)
    assert table.timesteps.tolist() == reference.timesteps.tolist()
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = x.clone()
    for t in reference.timesteps:
        expected = reference.step(some_model(expected, float(t)), t, expected).prev_sample
    scale = expected.square().mean().sqrt()
    torch.testing.assert_close(
        sample(table, some_model, x) / scale, expected / scale, atol=3e-5, rtol=0
    )


def test_rows_at_different_steps_of_different_schedules_equal_themselves_alone() -> None:
    schedule = NoiseSchedule.from_config({**UNIPC, "prediction_type": "epsilon"})
    tables = [schedule.table(steps) for steps in (3, 7, 12)]
    starts = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    alone = [sample(table, some_model, starts[i : i + 1]) for i, table in enumerate(tables)]
    states = [SamplerState.start(starts[i : i + 1]) for i in range(3)]
    for step in range(12):
        live = [i for i in range(3) if step < len(tables[i])]
        joined = SamplerState(*map(torch.cat, zip(*(states[i] for i in live), strict=True)))
        times = [float(tables[i].timesteps[step]) for i in live]
        output = torch.cat([some_model(joined.x[k : k + 1], t) for k, t in enumerate(times)])
        after = update(joined, output, torch.stack([tables[i].rows[step] for i in live]))
        for k, i in enumerate(live):
            states[i] = SamplerState(*(part[k : k + 1] for part in after))
    for state, expected in zip(states, alone, strict=True):
        torch.testing.assert_close(state.x, expected, atol=3e-5, rtol=0)


@pytest.mark.parametrize("config", [UNIPC, {**DDIM, "set_alpha_to_one": False}])
def test_a_gaussian_is_sampled_better_with_more_steps(config: dict[str, object]) -> None:
    """Data N(mu, s²): the best epsilon is known, and so is where the ODE takes every start."""
    schedule = NoiseSchedule.from_config({**config, "prediction_type": "epsilon"})
    alphas = torch.from_numpy(schedule.alphas_cumprod)
    mu, s = 0.7, 0.5

    def best_epsilon(x: Tensor, t: float) -> Tensor:
        a = float(alphas[int(t)])
        return (1 - a) ** 0.5 * (x - a**0.5 * mu) / (a * s * s + 1 - a)

    def error(steps: int) -> float:
        table = schedule.table(steps)
        start, end = float(table.alphas[0]), float(alphas[0])
        x = torch.linspace(-2, 2, 9).view(1, 1, 3, 3)
        spread = ((end * s * s + 1 - end) / (start * s * s + 1 - start)) ** 0.5
        exact = end**0.5 * mu + spread * (x - start**0.5 * mu)
        return float((sample(table, best_epsilon, x) - exact).abs().max())

    assert error(40) < error(10) / 3 < error(4) / 3
    assert error(40) < 0.1


def test_bad_configs_and_step_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="prediction_type"):
        NoiseSchedule.from_config({**DDIM, "prediction_type": "score"})
    with pytest.raises(ValueError, match="beta_schedule"):
        NoiseSchedule.from_config({**DDIM, "beta_schedule": "sigmoid"})
    for steps in (0, 1001):
        with pytest.raises(ValueError, match="steps"):
            NoiseSchedule.from_config(DDIM).table(steps)
