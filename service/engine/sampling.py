"""Samplers as tables: every step of every schedule is one row of scalars.

DDIM (Song et al. 2021) and UniPC-2 (Zhao et al. 2023, bh2, predict-x0) are linear in the sample
and the model outputs, with scalars that depend on the step alone. So a step of a batch whose rows
are at different steps of different schedules is a gather of table rows and a few multiply-adds.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Float64 = NDArray[np.float64]

# Columns of a table row, in the order in which `update` uses them.
#   m = OUT_X * x + OUT_E * output                                     the model's clean estimate
#   c = COR_X * x + COR_P * previous + COR_M * m + COR_1 * m1 + COR_2 * m2       corrected sample
#   x' = PRE_C * c + PRE_M * m + PRE_1 * m1                                      next sample
OUT_X, OUT_E, COR_X, COR_P, COR_M, COR_1, COR_2, PRE_C, PRE_M, PRE_1 = range(10)
NUM_COLUMNS = 10


@dataclass(frozen=True)
class NoiseSchedule:
    """Cumulative alphas of training, read from a diffusers scheduler config."""

    alphas_cumprod: Float64  # (T,)
    prediction_type: str  # epsilon, v_prediction or sample
    spacing: str  # linspace, leading or trailing
    steps_offset: int
    is_unipc: bool
    final_alpha: float = 1.0  # where DDIM's last step ends

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "NoiseSchedule":
        """Any class of config is sampled with UniPC but DDIM's own; ValueError if it is unknown."""
        betas = config.get("trained_betas")
        if betas is None:
            num, kind = config["num_train_timesteps"], config.get("beta_schedule", "linear")
            start, end = config["beta_start"], config["beta_end"]
            if kind not in ("linear", "scaled_linear"):
                raise ValueError(f"beta_schedule {kind!r} is not supported")
            power = 2 if kind == "scaled_linear" else 1
            betas = np.linspace(start ** (1 / power), end ** (1 / power), num) ** power
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in ("epsilon", "v_prediction", "sample"):
            raise ValueError(f"prediction_type {prediction!r} is not supported")
        is_ddim = config.get("_class_name") == "DDIMScheduler"
        return cls(
            np.cumprod(1.0 - np.asarray(betas, np.float64), dtype=np.float64),
            prediction,
            config.get("timestep_spacing", "leading") if is_ddim else "linspace",
            int(config.get("steps_offset", 0)) if is_ddim else 0,
            not is_ddim,
            1.0 if config.get("set_alpha_to_one", True) else 1.0 - float(betas[0]),
        )

    def timesteps(self, steps: int) -> NDArray[np.int64]:
        """`steps` integer timesteps, descending."""
        num = len(self.alphas_cumprod)
        if not 1 <= steps <= num:
            raise ValueError(f"steps must be in 1..{num}")
        if self.spacing == "trailing":
            return np.round(np.arange(num, 0, -num / steps)).astype(np.int64)[:steps] - 1
        if self.spacing == "linspace":
            return np.linspace(0, num - 1, steps + 1).round()[::-1][:-1].astype(np.int64)
        leading = (np.arange(steps) * (num // steps))[::-1] + self.steps_offset
        return np.minimum(leading, num - 1).astype(np.int64)

    def table(self, steps: int) -> "StepTable":
        """Timesteps and coefficients of a whole schedule."""
        timesteps = self.timesteps(steps)
        rows = np.zeros((steps, NUM_COLUMNS))
        for i, t in enumerate(timesteps):
            rows[i, [OUT_X, OUT_E]] = self._estimate(self.alphas_cumprod[t])
        (self._fill_unipc if self.is_unipc else self._fill_ddim)(timesteps, rows)
        alphas = torch.from_numpy(self.alphas_cumprod[timesteps])
        return StepTable(torch.from_numpy(timesteps), torch.from_numpy(rows), alphas)

    def _estimate(self, a: float) -> tuple[float, float]:
        """Coefficients of x and of the model output in the clean estimate at cumulative alpha a."""
        alpha, sigma = np.sqrt(a), np.sqrt(1 - a)
        if self.prediction_type == "epsilon":
            return 1 / alpha, -sigma / alpha
        if self.prediction_type == "v_prediction":
            return alpha, -sigma
        return 0.0, 1.0

    def _fill_ddim(self, timesteps: NDArray[np.int64], rows: Float64) -> None:
        """x' = sqrt(a') m + sqrt(1 - a') (x - sqrt(a) m) / sqrt(1 - a), a' of the next step."""
        a = self.alphas_cumprod[timesteps]
        a_next = np.append(a[1:], self.final_alpha)
        ratio = np.sqrt((1 - a_next) / (1 - a))
        rows[:, COR_X] = 1.0
        rows[:, PRE_C] = ratio
        rows[:, PRE_M] = np.sqrt(a_next) - ratio * np.sqrt(a)

    def _fill_unipc(self, timesteps: NDArray[np.int64], rows: Float64) -> None:
        """Order 2 with corrector; order 1 at the first and last step; the last goes to t = 0."""
        a = np.append(self.alphas_cumprod[timesteps], self.alphas_cumprod[0])
        alpha, sigma = np.sqrt(a), np.sqrt(1 - a)
        lam = np.log(alpha) - np.log(sigma)
        steps = len(timesteps)
        rows[0, COR_X] = 1.0
        for i in range(steps):
            h = lam[i + 1] - lam[i]
            decay = np.expm1(-h)
            rows[i, PRE_C] = sigma[i + 1] / sigma[i]
            rows[i, PRE_M] = -alpha[i + 1] * decay
            is_second_order = 0 < i < steps - 1
            if is_second_order:
                slope = -alpha[i + 1] * decay * 0.5 / ((lam[i - 1] - lam[i]) / h)
                rows[i, PRE_1] += slope
                rows[i, PRE_M] -= slope
            if i + 1 < steps:
                self._fill_corrector(rows[i + 1], i, is_second_order, alpha, sigma, lam)

    @staticmethod
    def _fill_corrector(
        row: Float64, i: int, is_second_order: bool, alpha: Float64, sigma: Float64, lam: Float64
    ) -> None:
        """Step i -> i + 1 once more, now that the output at i + 1 is known (m1 is of step i)."""
        h = lam[i + 1] - lam[i]
        decay = np.expm1(-h)
        scale = -alpha[i + 1] * decay
        row[COR_P] = sigma[i + 1] / sigma[i]
        row[COR_1] = scale
        weight_new = 0.5
        if is_second_order:
            r = (lam[i - 1] - lam[i]) / h
            phi_2 = decay / -h - 1.0
            phi_3 = phi_2 / -h - 0.5
            b = np.array([phi_2, 2.0 * phi_3]) / decay
            weight_old, weight_new = np.linalg.solve(np.array([[1.0, 1.0], [r, 1.0]]), b)
            row[COR_2] = scale * weight_old / r
            row[COR_1] -= scale * weight_old / r
        row[COR_M] = scale * weight_new
        row[COR_1] -= scale * weight_new


@dataclass(frozen=True)
class StepTable:
    """One schedule: timesteps (n,), coefficients (n, 10), cumulative alphas (n,) of the steps."""

    timesteps: Tensor
    rows: Tensor
    alphas: Tensor

    def __len__(self) -> int:
        return len(self.timesteps)

    @cached_property
    def packed_rows(self) -> tuple[Tensor, ...]:
        """Per step (11,) float32: its coefficients and, last, its timestep."""
        packed = torch.cat([self.rows, self.timesteps[:, None]], dim=1)
        return packed.float().unbind(0)

    @property
    def has_history(self) -> bool:
        """Whether steps read anything of the steps before them."""
        return bool(self.rows[:, [COR_P, COR_1, COR_2, PRE_1]].any())

    def add_noise(self, latents: Tensor, noise: Tensor, step: int = 0) -> Tensor:
        """The latents noised to where a step starts."""
        return add_noise(latents, noise, float(self.alphas[step]))

    def renoised(self, cond: Tensor, noise: Tensor, from_t: int | None) -> dict[int, Tensor]:
        """The noised condition that a step gets as its sample, by step: the first, and each at
        a timestep of `from_t` or more.

        A later one throws away the sample so far, but not the sampler's history.
        """
        times = self.timesteps.tolist()
        steps = [i for i, t in enumerate(times) if i == 0 or (from_t is not None and t >= from_t)]
        return {i: self.add_noise(cond, noise, i) for i in steps}


def add_noise(latents: Tensor, noise: Tensor, alpha: float) -> Tensor:
    """The latents noised to where the cumulative alpha is `alpha`."""
    noised: Tensor = alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise
    return noised


class SamplerState(NamedTuple):
    """What a row keeps between steps, each (B, C, h, w)."""

    x: Tensor  # current sample
    previous: Tensor  # corrected sample of the step before
    m1: Tensor  # clean estimates of the last two steps
    m2: Tensor

    @classmethod
    def start(cls, x: Tensor) -> "SamplerState":
        zero = torch.zeros_like(x)
        return cls(x, zero, zero, zero)


def update(state: SamplerState, output: Tensor, rows: Tensor) -> SamplerState:
    """One step of every row of a batch: rows (B, 10 or more) of tables, output (B, C, h, w)."""
    k = rows.to(output.device, torch.float32).T[:, :, None, None, None]
    x = state.x.float()
    m = k[OUT_X] * x + k[OUT_E] * output.float()
    corrected = (
        k[COR_X] * x + k[COR_P] * state.previous + k[COR_M] * m + k[COR_1] * state.m1
        + k[COR_2] * state.m2
    )  # fmt: skip
    following = k[PRE_C] * corrected + k[PRE_M] * m + k[PRE_1] * state.m1
    return SamplerState(following, corrected, m, state.m1)
