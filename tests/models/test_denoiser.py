from __future__ import annotations

import pytest
import torch

from paintover.errors import ModelError
from paintover.models import Denoiser, load, widen
from paintover.models.denoiser import clean, seen

T_B = torch.tensor([3, 400, 980])


@pytest.fixture(scope="module")
def wide(tiny_bundle):
    return load(tiny_bundle("instruct"), device="cpu").denoiser


@pytest.fixture(scope="module")
def narrow(tiny_bundle):
    return load(tiny_bundle("text-to-image"), device="cpu").denoiser


def inputs(channels=4, width=32, rows=3):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, channels, 8, 8, generator=generator)
    image = torch.randn(rows, channels, 8, 8, generator=generator)
    return x, torch.randn(rows, 7, width, generator=generator), image


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "change"])
def test_a_perfect_network_is_turned_into_the_true_noise(narrow, prediction):
    """Closed form: x = sqrt(a) x0 + sqrt(1 - a) eps is built here, and so is what a perfect network would say."""
    generator = torch.Generator().manual_seed(2)
    x0, eps, image = torch.randn(3, 3, 4, 8, 8, dtype=torch.float64, generator=generator)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    a = torch.cumprod(1 - betas, 0)[T_B].view(3, 1, 1, 1)
    x = a**0.5 * x0 + (1 - a) ** 0.5 * eps
    said = {
        "epsilon": eps,
        "v_prediction": a**0.5 * eps - (1 - a) ** 0.5 * x0,
        "sample": x0,
        "change": x0 - 0.7 * image,
    }[prediction]
    door = Denoiser(narrow.unet, prediction, narrow.alphas_cumprod, codec_scale=0.7)
    got = door.to_noise(said.float(), x.float(), T_B, image.float())
    torch.testing.assert_close(got, eps.float(), atol=2e-4, rtol=0)


def test_change_of_nothing_is_the_sample(wide):
    x, tokens, image = inputs()
    change = Denoiser(wide.unet, "change", wide.alphas_cumprod, codec_scale=0.5)
    sample = Denoiser(wide.unet, "sample", wide.alphas_cumprod)
    torch.testing.assert_close(change(x, T_B, tokens), sample(x, T_B, tokens), atol=0, rtol=0)
    torch.testing.assert_close(change(x, T_B, tokens, image_BCHW=0 * image), sample(x, T_B, tokens), atol=0, rtol=0)
    assert not torch.allclose(change(x, T_B, tokens, image_BCHW=image), sample(x, T_B, tokens, image_BCHW=image), atol=1e-3)


def test_a_blend_hides_the_pixels_it_names_and_no_others():
    """Against pixels: what is hidden is replaced by the change, the rest is the source plus the change."""
    source, fill = torch.rand(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    hidden = torch.zeros(2, 1, 16, 16)
    hidden[:, :, 3:9, 5:14] = 1
    truth = torch.where(hidden.bool(), fill, source)
    latents, maps = (torch.nn.functional.pixel_unshuffle(p, 8) for p in (source, hidden))
    change = torch.nn.functional.pixel_unshuffle(fill * hidden, 8)
    got = clean(torch.cat([change, maps], dim=1), latents)
    torch.testing.assert_close(torch.nn.functional.pixel_shuffle(got, 8), truth)


def test_a_door_that_blends_reads_channels_off_the_input(wide):
    torch.manual_seed(0)
    unet = type(wide.unet).from_config({**wide.unet.config, "out_channels": 6})
    door = Denoiser(unet, "blend", wide.alphas_cumprod, codec_scale=0.5)
    assert (door.channels, door.takes_image) == (4, True)
    x, tokens, image = inputs()
    output = door.output(x, T_B, tokens, None, image)
    a = wide.alphas_cumprod[T_B].view(-1, 1, 1, 1)
    hidden = output[:, [4, 5, 4, 5]]
    x0 = 0.5 * image * (1 - hidden) + output[:, :4]
    torch.testing.assert_close(door(x, T_B, tokens, None, image), (x - a.sqrt() * x0) / (1 - a).sqrt())
    with pytest.raises(ModelError, match="C a multiple of G"):
        Denoiser(type(unet).from_config({**unet.config, "out_channels": 7}), "blend", wide.alphas_cumprod)


def test_what_is_seen_corrects_a_guess_as_bayes_says():
    """Against the textbook's product of two Gaussians, by their precisions; and EDM's c_skip in EDM's own variables."""
    guess, x = torch.randn(2, 4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    a = torch.tensor([0.9999, 0.9, 0.3, 1e-6], dtype=torch.float64).view(-1, 1, 1, 1)
    for sd in (0.05, 0.5, 3.0):
        prior, data = 1 / sd**2, a / (1 - a)
        expected = (prior * guess + data * x / a.sqrt()) / (prior + data)
        torch.testing.assert_close(seen(guess, x, a, sd), expected)
        sigma = ((1 - a) / a).sqrt()
        torch.testing.assert_close(seen(0 * guess, x, a, sd), sd**2 / (sigma**2 + sd**2) * x / a.sqrt())


def test_no_noise_shows_the_picture_and_pure_noise_nothing():
    guess, x = torch.randn(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(seen(guess, x, torch.ones(1, 1, 1, 1), 0.2), x)
    assert torch.equal(seen(guess, x, torch.zeros(1, 1, 1, 1), 0.2), guess)


def test_the_correction_is_for_rows_that_have_no_source(wide):
    """To the bit what it was where there is one: in pictures that instructions edit the source has every detail."""
    x, tokens, image = inputs()
    image[1] = 0  # how a row without a source is told beside one that has one
    before, after = (Denoiser(wide.unet, "change", wide.alphas_cumprod, codec_scale=0.5, sigma_data=sd) for sd in (None, 0.3))
    output = before.output(x, T_B, tokens, None, image)
    was, now = (door.to_noise(output, x, T_B, image) for door in (before, after))
    assert torch.equal(now[[0, 2]], was[[0, 2]])
    a = wide.alphas_cumprod[T_B].view(-1, 1, 1, 1)
    x0 = seen(output, x, a, 0.3)
    torch.testing.assert_close(a.sqrt() * x0 + (1 - a).sqrt() * after.to_noise(output, x, T_B), x)
    torch.testing.assert_close(now[1], after.to_noise(output, x, T_B)[1])
    assert not torch.allclose(now[1], was[1], atol=1e-2)
    assert torch.equal(after.around(wide.unet)(x, T_B, tokens, None, image), after(x, T_B, tokens, None, image))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "change"])
def test_a_row_among_others_at_other_timesteps_is_the_row_alone(wide, prediction):
    x, tokens, image = inputs()
    door = Denoiser(wide.unet, prediction, wide.alphas_cumprod, codec_scale=0.5)
    together = door(x, T_B, tokens, image_BCHW=image)
    for row in range(3):
        one = slice(row, row + 1)
        alone = door(x[one], T_B[one], tokens[one], image_BCHW=image[one])
        torch.testing.assert_close(together[one], alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(door(x[:1], T_B[1:2], tokens[:1], image_BCHW=image[:1]), together[:1], atol=1e-3)


def test_a_widened_network_says_the_same_with_any_picture(narrow):
    x, tokens, image = inputs()
    wide = Denoiser(widen(narrow.unet), "epsilon", narrow.alphas_cumprod)
    assert wide.takes_image
    assert not narrow.takes_image
    before = narrow(x, T_B, tokens)
    torch.testing.assert_close(wide(x, T_B, tokens), before, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(wide(x, T_B, tokens, image_BCHW=image), before, atol=1e-6, rtol=1e-6)
    with pytest.raises(ModelError, match="cannot be widened"):
        widen(wide.unet)


def test_the_pooled_text_is_heard(tiny_bundle):
    door = load(tiny_bundle("builtin"), device="cpu").denoiser
    x, tokens, image = inputs(channels=192)
    pooled = torch.randn(3, 32, generator=torch.Generator().manual_seed(3))
    answers = [door(x, T_B, tokens, pooled_BD, image) for pooled_BD in (pooled, -pooled)]
    assert not torch.allclose(*answers, atol=1e-4)
    assert (door.channels, door.multiple, door.text_width, door.pooled_width) == (192, 2, 32, 32)
    with pytest.raises(ModelError, match="pooled text vector of width 32"):
        door(x, T_B, tokens)


def test_half_precision_gives_float32_near_the_full_answer(tiny_bundle):
    x, tokens, image = inputs()
    full = load(tiny_bundle("instruct"), device="cpu").denoiser(x, T_B, tokens, image_BCHW=image)
    half = load(tiny_bundle("instruct"), device="cpu", dtype=torch.bfloat16).denoiser(x, T_B, tokens, image_BCHW=image)
    assert half.dtype == torch.float32
    assert (half - full).abs().mean() < 0.03 * full.abs().mean()
    assert not torch.equal(half, full)


def test_what_cannot_be_done_is_said(narrow):
    x, tokens, image = inputs()
    with pytest.raises(ModelError, match="no channels for one"):
        narrow(x, T_B, tokens, image_BCHW=image)
    for prediction, sd in (("epsilon", 0.5), ("sample", 0.0), ("sample", float("nan"))):
        with pytest.raises(ModelError, match=f"sigma_data is {sd}"):
            Denoiser(narrow.unet, prediction, narrow.alphas_cumprod, sigma_data=sd)
    with pytest.raises(ModelError, match="prediction 'flow' is unknown"):
        Denoiser(narrow.unet, "flow", narrow.alphas_cumprod)
