"""A trainable view of base and plugins: a batch of pairs in, a loss or restored images out."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionModel

from service.engine.sampling import NoiseSchedule, SamplerState, update
from service.engine.shifts import offsets
from service.models.backbone import pixels_per_latent
from service.models.codec import PatchCodec
from service.models.denoiser import denoise
from service.models.scb import SCB
from service.models.tpb import TPB
from service.training.objective import bridge_latents, pixel_loss, sample_timesteps

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Restorer(nn.Module):
    """UNet, image encoder, one SCB and a TPB per task, trained or frozen as their owner says."""

    alphas_cumprod: Tensor
    clip_mean: Tensor
    clip_std: Tensor

    def __init__(
        self,
        unet: UNet2DConditionModel,
        image_encoder: CLIPVisionModel,
        codec: PatchCodec | AutoencoderKL,
        scheduler: DDIMScheduler,
        scb: SCB,
        tpbs: dict[str, TPB],
    ) -> None:
        super().__init__()
        self.unet, self.image_encoder, self.codec = unet, image_encoder, codec.requires_grad_(False)
        self.patch_size, self.scaling_factor = pixels_per_latent(codec), codec.config.scaling_factor
        self.scheduler, self.scb = scheduler, scb
        self.tpbs = nn.ModuleDict(tpbs)
        self.register_buffer("alphas_cumprod", scheduler.alphas_cumprod, persistent=False)
        self.register_buffer(
            "clip_mean", torch.tensor(CLIP_MEAN).view(1, 3, 1, 1), persistent=False
        )
        self.register_buffer("clip_std", torch.tensor(CLIP_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor, targets: Tensor, tasks: Tensor) -> Tensor:
        """images, targets (B, 3, H, W) in [-1, 1], tasks (B,) -> scalar loss (paper eq. 3)."""
        with torch.autocast(images.device.type, enabled=False):  # half precision would round them
            cond, z0 = self.encode(images), self.encode(targets)
        last = len(self.alphas_cumprod) - 1
        timesteps = sample_timesteps(len(images), last, images.device)
        z = bridge_latents(z0, cond, timesteps, self.alphas_cumprod)
        tokens = self.tokens(images, tasks)
        scb = self.scb(cond, timesteps, tokens)
        predicted = denoise(self.unet, z, timesteps, tokens, scb.residuals, scb.skip)
        with torch.autocast(images.device.type, enabled=False):
            return pixel_loss(self.decode(predicted.float()), targets)

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> scaled latents, the posterior's mode."""
        latents: Tensor = self.codec.encode(images).latent_dist.mode() * self.scaling_factor
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        images: Tensor = self.codec.decode(latents / self.scaling_factor).sample
        return images

    def tokens(self, images: Tensor, tasks: Tensor) -> Tensor:
        """Prompt tokens F^p (B, N, D), each row from the TPB of its task."""
        size = self.image_encoder.config.image_size
        small = F.interpolate(images, (size, size), mode="bicubic", antialias=True)
        pixels = ((small + 1) / 2 - self.clip_mean) / self.clip_std
        features = self.image_encoder(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
        every = torch.stack([tpb(features) for tpb in self.tpbs.values()])
        tokens: Tensor = every[tasks, torch.arange(len(images), device=images.device)]
        return tokens

    @torch.no_grad()
    def restore(
        self, images: Tensor, tasks: Tensor, steps: int, num_shifts: int = 1, seed: int = 0
    ) -> Tensor:
        """What the engine makes of images (B, 3, H, W) in [-1, 1] before an output stage."""
        tokens = self.tokens(images, tasks)
        height, width = images.shape[-2:]
        multiple = self.patch_size * 2 ** (len(self.unet.config["block_out_channels"]) - 1)
        views = []
        for down, right in offsets(num_shifts, self.patch_size):
            padding = (right, -(width + right) % multiple, down, -(height + down) % multiple)
            view = F.pad(images, padding, mode="replicate")
            view = self._sample(view, tokens, steps, seed)
            views.append(view[..., down : down + height, right : right + width])
        return torch.stack(views).mean(0)

    def _sample(self, images: Tensor, tokens: Tensor, steps: int, seed: int) -> Tensor:
        """`steps` steps from the noised condition."""
        cond = self.encode(images)
        table = NoiseSchedule.from_config(dict(self.scheduler.config)).table(steps)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(cond.shape, generator=generator).to(cond)
        state = SamplerState.start(table.add_noise(cond, noise))
        for t, row in zip(table.timesteps, table.rows, strict=True):
            timesteps = t.repeat(len(images)).to(images.device)
            scb = self.scb(cond, timesteps, tokens)
            output = denoise(self.unet, state.x, timesteps, tokens, scb.residuals, scb.skip)
            state = update(state, output, row.repeat(len(images), 1))
        return self.decode(state.x)
