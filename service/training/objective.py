"""The training objective: noise a target, predict it back, compare (paper eq. 3).

It is that of a bridge, for a base that predicts the sample: the noise is shifted so that at the
last timestep the noised target is the noised condition, and the loss is taken in pixels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def sample_timesteps(count: int, last: int, device: torch.device) -> Tensor:
    """Integer timesteps in [0, last], dense near `last`, where restoration starts."""
    u = torch.rand(count, device=device)
    return (last * (1 - u * u)).round().long()


def bridge_latents(z0: Tensor, cond: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Noised z0 (B, C, h, w) whose mean moves to the condition as t goes to the last timestep.

    z_t = sqrt(a) z0 + sqrt(1 - a) (n + (cond - z0) / s), s = sqrt((1 - a_T) / a_T); at t = T this
    is exactly add_noise(cond, n, T), where sampling starts.
    """
    last = alphas_cumprod[-1]
    s = ((1 - last) / last).sqrt()
    a = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    noise = torch.randn_like(z0) + (cond - z0) / s
    return a.sqrt() * z0 + (1 - a).sqrt() * noise


def pixel_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """L1 on pixels plus L1 on their spectrum, which keeps fine texture from washing out."""
    spectrum: Tensor = torch.fft.rfft2(predicted - target, norm="ortho").abs().mean()
    return F.l1_loss(predicted, target) + 0.05 * spectrum


def detail_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """pixel_loss in which the smooth part of the error counts a fifth, plus a loss of structure.

    A tone that is a little off would otherwise drown what a local network can learn.
    """
    error = predicted - target
    smooth = F.interpolate(
        F.avg_pool2d(error, 16, ceil_mode=True), error.shape[-2:], mode="bilinear"
    )
    spectrum: Tensor = torch.fft.rfft2(error, norm="ortho").abs().mean()
    sharp = (error - smooth).abs().mean() + 0.2 * error.abs().mean() + 0.05 * spectrum
    return sharp + 0.1 * (1 - structural_similarity(predicted, target))


def structural_similarity(predicted: Tensor, target: Tensor, window: int = 7) -> Tensor:
    """Mean SSIM (Wang et al. 2004) of photos (B, C, H, W) in [-1, 1], over square windows."""

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, window, stride=1)

    means = mean(predicted), mean(target)
    product, squares = means[0] * means[1], means[0].square() + means[1].square()
    variances = mean(predicted.square()) + mean(target.square()) - squares
    covariance = mean(predicted * target) - product
    light, contrast = (2 * 0.01) ** 2, (2 * 0.03) ** 2
    similar: Tensor = (2 * product + light) * (2 * covariance + contrast)
    return (similar / ((squares + light) * (variances + contrast))).mean()
