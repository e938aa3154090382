"""The frozen base: VAE, UNet, image encoder and noise schedule of a diffusers-layout folder.

Nothing of a particular base is hard-wired: sizes, classes and betas come from its configs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPVisionModel

from service.models.architectures import load_image_encoder, load_unet, load_vae, read_config
from service.models.base_files import BaseSources, find_base
from service.models.codec import PatchCodec

Pixels = NDArray[np.uint8]  # (H, W, 3), RGB
PREPROCESSOR = "preprocessor_config.json"
CLIP_SIZE = 224  # CLIP's own, as its paper has them
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
MAX_ASPECT = 64  # of a photo that is resized whole before its middle is cut out
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class ImagePreprocessor:
    """CLIP's input: short side to `size` (bicubic on 8 bits), centre crop, normalise."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def load(cls, folder: Path) -> "ImagePreprocessor":
        if not (folder / PREPROCESSOR).is_file():
            return cls(CLIP_SIZE, CLIP_MEAN, CLIP_STD)  # released checkpoints may lack the file
        config = read_config(folder, PREPROCESSOR)
        crop = config["crop_size"]
        size = crop["height"] if isinstance(crop, dict) else crop
        return cls(size, tuple(config["image_mean"]), tuple(config["image_std"]))

    def __call__(self, pixels: Pixels) -> Tensor:
        """(3, size, size), normalised."""
        pixels = _middle(pixels)
        height, width = pixels.shape[:2]
        short = min(height, width)
        # Truncation, as CLIP's own resize does; the shorter side is exact.
        resized = Image.fromarray(pixels).resize(
            (int(self.size * width / short), int(self.size * height / short)),
            Image.Resampling.BICUBIC,
        )
        left, top = (resized.width - self.size) // 2, (resized.height - self.size) // 2
        crop = np.asarray(resized.crop((left, top, left + self.size, top + self.size)))
        unit = torch.from_numpy(crop.astype(np.float32) / 255.0).permute(2, 0, 1)
        return (unit - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[
            :, None, None
        ]


def _middle(pixels: Pixels) -> Pixels:
    """The part that a centre crop can see; a strip of paper, resized whole, would fill memory."""
    height, width = pixels.shape[:2]
    reach = MAX_ASPECT * min(height, width)
    top, left = max(0, height - reach) // 2, max(0, width - reach) // 2
    return pixels[top : top + reach, left : left + reach]


class Backbone:
    """Frozen networks; load() makes them float32 on CPU and half precision on CUDA."""

    def __init__(
        self,
        name: str,
        vae: PatchCodec | AutoencoderKL,
        unet: UNet2DConditionModel,
        image_encoder: CLIPVisionModel,
        preprocessor: ImagePreprocessor,
        scheduler_config: dict[str, Any],
        device: torch.device,
        sources: BaseSources | None = None,
    ) -> None:
        self.name, self.device, self.sources = name, device, sources
        self.dtype: torch.dtype = unet.dtype
        self.vae = _freeze(vae, device)
        self.unet = _freeze(unet, device)
        self.image_encoder = _freeze(image_encoder, device)
        self.preprocessor = preprocessor
        self.scheduler_config = scheduler_config

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Backbone":
        """The base whose folder in the store is `folder`, wherever its parts lie."""
        files = find_base(folder)
        dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
        return cls(
            folder.name,
            load_vae(files.part("vae"), dtype),
            load_unet(files.part("unet"), dtype),
            load_image_encoder(files.image_encoder, dtype),
            ImagePreprocessor.load(files.preprocessor),
            read_config(files.part("scheduler"), "scheduler_config.json"),
            torch.device(device),
            files.sources,
        )

    @property
    def patch_size(self) -> int:
        """Pixels per latent, along a side."""
        return pixels_per_latent(self.vae)

    @property
    def pixel_multiple(self) -> int:
        """Image sides must be a multiple of this: the VAE's factor times the UNet's."""
        return int(self.patch_size * 2 ** (len(self.unet.config["block_out_channels"]) - 1))

    @torch.inference_mode()
    def image_features(self, images: Sequence[Pixels]) -> Tensor:
        """Last hidden states without the class token, before the final norm: (B, N, D)."""
        pixels = torch.stack([self.preprocessor(image) for image in images])
        output = self.image_encoder(self._upload(pixels), output_hidden_states=True)
        features: Tensor = output.hidden_states[-1][:, 1:]
        return features

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> scaled latents (B, C, h, w), the posterior's mode."""
        posterior = self.vae.encode(self._upload(images)).latent_dist
        latents: Tensor = posterior.mode() * self.vae.config.scaling_factor
        return latents

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> images (B, 3, H, W), about [-1, 1]."""
        images: Tensor = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return images

    def _upload(self, images: Tensor) -> Tensor:
        """To the device, through pinned memory on CUDA: such a copy blocks nothing."""
        if self.device.type == "cuda" and not images.is_cuda:
            images = images.pin_memory().to(self.device, non_blocking=True)
        return images.to(self.device, self.dtype)


def pixels_per_latent(vae: PatchCodec | AutoencoderKL) -> int:
    """Along a side."""
    config = vae.config
    return int(config.get("patch_size") or 2 ** (len(config["block_out_channels"]) - 1))


def pick_device(name: str) -> str:
    """`auto` is cuda where there is one, else cpu."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def channels_last(module: Module) -> Module:
    """Lay out 4-D weights for fast convolutions, in place.

    Module.to(memory_format=...) does the same, but torch's types do not know that argument.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
    return module


def _freeze(module: Module, device: torch.device) -> Module:
    return channels_last(module.to(device)).requires_grad_(False).eval()
