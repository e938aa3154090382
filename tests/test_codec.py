"""PatchCodec: nothing is lost, whatever it was fitted on."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from service.models.codec import PatchCodec


def patches(num: int = 4000, size: int = 4) -> Tensor:
    """Correlated random patches (num, 3, size, size) in [-1, 1], as those of photos are."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(num, 3, size + 2, size + 2, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(noise, 3, stride=1)
    return (0.2 + smooth).clamp(-1, 1)


def as_images(z: Tensor, size: int = 4) -> Tensor:
    """Patches side by side in one row: (1, 3, size, num * size)."""
    return torch.cat(list(z), dim=-1)[None]


def test_encoding_and_decoding_give_the_image_back() -> None:
    codec = PatchCodec.fit(patches())
    images = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = codec.encode(images).latent_dist.mode()
    assert latents.shape == (2, 48, 4, 6)
    torch.testing.assert_close(codec.decode(latents).sample, images, atol=1e-4, rtol=0)


def test_few_patches_are_enough_for_an_exact_codec() -> None:
    codec = PatchCodec.fit(patches(num=10))
    images = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = codec.encode(images).latent_dist.mode()
    torch.testing.assert_close(codec.decode(latents).sample, images, atol=1e-4, rtol=0)


def test_a_fitted_codec_gives_centred_latents_of_unit_mean_variance() -> None:
    data = patches()
    latents = PatchCodec.fit(data).encode(as_images(data)).latent_dist.mode().flatten(2)[0]
    assert latents.mean(1).abs().max() < 1e-3
    assert float(latents.var(1).mean()) == pytest.approx(1.0, abs=1e-3)


def test_channels_come_in_order_of_their_variance() -> None:
    data = patches()
    latents = PatchCodec.fit(data).encode(as_images(data)).latent_dist.mode().flatten(2)[0]
    variance = latents.var(1)
    assert (variance[:-1] >= variance[1:] * 0.999).all()


def test_a_number_of_channels_that_loses_information_is_refused() -> None:
    with pytest.raises(ValueError, match="3 \\* patch_size² = 48"):
        PatchCodec(patch_size=4, latent_channels=47)


def test_a_saved_codec_comes_back_the_same(tmp_path: Path) -> None:
    codec = PatchCodec.fit(patches())
    codec.save_pretrained(tmp_path)
    loaded = PatchCodec.from_pretrained(tmp_path)
    assert (loaded.config.patch_size, loaded.config.latent_channels) == (4, 48)
    images = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = codec.encode(images).latent_dist.mode()
    assert torch.equal(loaded.encode(images).latent_dist.mode(), expected)
