"""Training on a base that predicts noise, as Stable Diffusion does: the paper's objective (eq. 3).

Targets are drawn from the VAE's posterior, the condition is its mean; timesteps are uniform.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from service.models.denoiser import denoise
from service.training.restorer import Restorer

# The paper's: AdamW at 1e-5 on crops of 512 px; an edit takes 20 steps and one view.
DEFAULTS = {
    "lr": 1e-5,
    "size": 512,
    "sheet_size": 512,
    "stage_steps": 0,
    "default_steps": 20,
    "num_shifts": 1,
}


class LatentRestorer(Restorer):
    """|| noise - eps(z_t, t, F^p, F^s) ||^2 with the base frozen."""

    def forward(self, images: Tensor, targets: Tensor, tasks: Tensor) -> Tensor:
        """images, targets (B, 3, H, W) in [-1, 1], tasks (B,) -> scalar loss."""
        with torch.no_grad():
            cond = self.encode(images)
            z0 = self.codec.encode(targets).latent_dist.sample() * self.scaling_factor
        timesteps = torch.randint(len(self.alphas_cumprod), (len(z0),), device=z0.device)
        noise = torch.randn_like(z0)
        a = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        z = a.sqrt() * z0 + (1 - a).sqrt() * noise
        tokens = self.tokens(images, tasks)
        residuals = self.scb(cond, timesteps, tokens).residuals
        predicted = denoise(self.unet, z, timesteps, tokens, residuals, None)
        return F.mse_loss(predicted.float(), noise)
