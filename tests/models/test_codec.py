from __future__ import annotations

import numpy as np
import pytest
import torch

from paintover.errors import ModelError
from paintover.models import KLCodec, LinearCodec, PixelUnshuffleCodec, TinyCodec


def pixels(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def kl():
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        shift_factor=0.3,
    )


def autoencoder_tiny(**config):
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    torch.manual_seed(0)
    options = {
        "encoder_block_out_channels": (16, 16),
        "decoder_block_out_channels": (16, 16),
        "num_encoder_blocks": (1, 1),
        "num_decoder_blocks": (1, 1),
        "scaling_factor": 0.5,
    }
    return AutoencoderTiny(**{**options, **config})


def test_kl_codec_is_the_mode_of_diffusers_vae():
    vae, x = kl(), pixels(2, 3, 16, 24)
    codec = KLCodec(vae)
    assert (codec.factor, codec.channels) == (2, 4)
    with torch.no_grad():
        mode = vae.encode(x).latent_dist.mode()
        latents = codec.encode(x)
        torch.testing.assert_close(latents, (mode - 0.3) * vae.config.scaling_factor)
        torch.testing.assert_close(codec.decode(latents), vae.decode(mode).sample, atol=1e-5, rtol=1e-5)
    assert torch.equal(codec.encode(x), latents), "a codec draws no samples"


def test_tiny_codec_is_diffusers_autoencoder():
    vae, x = autoencoder_tiny(), pixels(1, 3, 16, 24)
    codec = TinyCodec(vae)
    assert (codec.factor, codec.channels, codec.scale) == (2, 4, 0.5)
    torch.testing.assert_close(codec.encode(x), 0.5 * vae.encode(x).latents)
    torch.testing.assert_close(codec.decode(codec.encode(x)), vae.decode(vae.encode(x).latents).sample)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_tiny_codec_refuses_unequal_stage_widths(side):
    vae = autoencoder_tiny(**{f"{side}_block_out_channels": (16, 32)})
    with pytest.raises(ModelError, match=f"{side} needs equal stage widths"):
        TinyCodec(vae)


def test_pixel_unshuffle_is_lossless_and_is_where_numpy_puts_it(tmp_path):
    x = pixels(2, 3, 16, 24)
    codec = PixelUnshuffleCodec(factor=8, scale=2.0, mean=(0.1, -0.2, 0.0))
    latents = codec.encode(x)
    blocks = (x.numpy() - np.array([0.1, -0.2, 0.0], dtype=np.float32).reshape(3, 1, 1)).reshape(2, 3, 2, 8, 3, 8)
    expected = 2 * blocks.transpose(0, 1, 3, 5, 2, 4).reshape(2, 192, 2, 3)
    np.testing.assert_allclose(latents.numpy(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(codec.decode(latents), x, atol=1e-6, rtol=0)
    codec.save(tmp_path)
    torch.testing.assert_close(PixelUnshuffleCodec.load(tmp_path).encode(x), latents, atol=0, rtol=0)


def test_linear_codec_finds_the_subspace_that_pictures_lie_in(tmp_path):
    generator = torch.Generator().manual_seed(5)
    basis = torch.randn(5, 12, generator=generator)
    codes = torch.randn(40, 5, 6, 7, generator=generator)
    x = torch.nn.functional.pixel_shuffle(torch.einsum("cp,bchw->bphw", basis, codes), 2) * 0.2 + 0.1
    codec = LinearCodec.fit([x[:20], x[20:]], channels=5, factor=2)
    torch.testing.assert_close(codec.decode(codec.encode(x)), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(codec.basis_CP @ codec.basis_CP.T, torch.eye(5), atol=1e-5, rtol=0)
    assert codec.encode(x).var().item() == pytest.approx(1, rel=0.01)
    fewer = LinearCodec.fit([x], channels=3, factor=2)
    assert (fewer.decode(fewer.encode(x)) - x).square().mean() > 1e-3
    codec.save(tmp_path)
    assert torch.equal(LinearCodec.load(tmp_path).encode(x), codec.encode(x))


def test_linear_codec_is_as_good_as_the_best_of_its_size():
    """Eckart-Young: no linear code of 4 numbers leaves less error than the singular vectors do."""
    x = pixels(8, 3, 12, 12, seed=1).cumsum(dim=3) * 0.3
    codec = LinearCodec.fit([x], channels=4, factor=2)
    patches = torch.nn.functional.pixel_unshuffle(x, 2).permute(0, 2, 3, 1).reshape(-1, 12).double()
    values = torch.linalg.svdvals(patches - patches.mean(dim=0))
    best = values[4:].square().sum() / patches.numel()
    assert (codec.decode(codec.encode(x)) - x).square().mean().item() == pytest.approx(best.item(), rel=1e-3)


@pytest.mark.parametrize("shape", [(1, 3, 15, 16), (1, 4, 16, 16), (3, 16, 16)])
def test_pixels_that_do_not_fit_the_grid_are_refused(shape):
    with pytest.raises(ValueError, match=r"needs pixels \(B, 3, H, W\)"):
        PixelUnshuffleCodec(factor=8).encode(torch.zeros(shape))


def test_codecs_say_what_they_cannot_be():
    with pytest.raises(ModelError, match="needs 1 to 12 channels, got 13"):
        LinearCodec.fit([pixels(1, 3, 4, 4)], channels=13, factor=2)
    with pytest.raises(ModelError, match="at least one batch"):
        LinearCodec.fit([], channels=2, factor=2)
    with pytest.raises(ModelError, match="factor >= 1 and scale > 0"):
        PixelUnshuffleCodec(factor=8, scale=0.0)
