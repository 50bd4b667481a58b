"""Batches: the step decides what is in them, and processes share their rows without a difference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from paintover.models.codec import PixelUnshuffleCodec
from paintover.scenes import edits
from paintover.training import denoiser
from paintover.training.batches import LEVELS, SceneBatches, Share
from paintover.training.denoiser import ALPHAS_CUMPROD
from paintover.training.network import build_unet


def _batches(world, text, recipe, share=None, batch=None):
    share = share or Share()
    root, photos = world
    return SceneBatches(root, photos, text, recipe.model_copy(update={"seed": 3, "batch": batch or recipe.batch}), share)


def test_a_batch_depends_on_the_step_alone(tiny_world, text, tiny_recipe):
    """Also not on which texts were met before: their encodings are the same bits in any company."""
    one, other = _batches(tiny_world, text, tiny_recipe), _batches(tiny_world, text, tiny_recipe)
    for step in range(5):
        one[step]
    for key, value in other[5].items():
        assert torch.equal(one[5][key], value), key
    assert not torch.equal(one[4]["target_BCHW"], one[5]["target_BCHW"])


def test_two_processes_make_the_rows_of_one(tiny_world, text, tiny_recipe):
    whole = _batches(tiny_world, text, tiny_recipe)[7]
    shares = [_batches(tiny_world, text, tiny_recipe, Share(rank, 2))[7] for rank in range(2)]
    for key, value in whole.items():
        for rank in range(2):
            assert torch.equal(value[rank::2], shares[rank][key]), key


def test_two_processes_learn_what_one_does(tiny_world, text, tiny_recipe):
    torch.manual_seed(0)
    accelerator, codec, unet = Accelerator(), PixelUnshuffleCodec(4), build_unet(tiny_recipe, text.width)
    torch.nn.init.normal_(unet.conv_out.weight, std=0.02)

    def loss(share):
        batch = _batches(tiny_world, text, tiny_recipe, share)[2]
        return float(denoiser._loss(unet, codec, batch, tiny_recipe, 2, share, accelerator).detach())

    assert loss(Share()) == pytest.approx((loss(Share(0, 2)) + loss(Share(1, 2))) / 2, rel=1e-5)
    assert loss(Share(0, 2)) != pytest.approx(loss(Share(1, 2)), rel=1e-3)


def test_rows_are_what_they_say(tiny_world, text, tiny_recipe):
    """Without a source its pixels are zeros; the weight is 1, and more where a part of the picture is changed."""
    batch = _batches(tiny_world, text, tiny_recipe, batch=150)[0]
    told, weight = batch["shown_B"].bool(), batch["weight_B1HW"]
    assert not told.all()
    assert batch["source_BCHW"][~told].abs().max() == 0
    assert batch["target_BCHW"].min() >= -1
    assert batch["target_BCHW"].max() <= 1
    assert weight.min() == 1
    assert weight.max() <= 6
    changed = (batch["source_BCHW"] - batch["target_BCHW"]).abs().amax(dim=1, keepdim=True) > 2 * 2 / 255
    same = told[:, None, None, None] & ~changed
    assert (weight[same] == 1).all()
    share = changed.float().mean(dim=(1, 2, 3))
    captioned = (batch["levels_B2"] == torch.tensor(LEVELS["settled"])).all(dim=1)
    assert (weight[captioned].amax(dim=(1, 2, 3)) > 2).any()  # the things that a caption names
    assert weight[captioned].max() <= 4
    parts = told & (share < 0.5) & (share > 0)
    assert (weight[parts][changed[parts]] > 3).all()


def test_words_and_sources_are_dropped_as_the_terms_of_guidance_need(tiny_world, text, tiny_recipe):
    batches, count = _batches(tiny_world, text, tiny_recipe), 1500
    said = [(words, told) for *_, words, told, _ in (batches._row(np.random.default_rng([3, 0, n])) for n in range(count))]
    assert {told for _, told in said} == {0.0, 1.0}
    silent = sum(words == "" for words, _ in said) / count
    neither = sum(words == "" and told == 0 for words, told in said) / count
    unseen = sum(told == 0 for _, told in said) / count
    assert silent == pytest.approx(0.07, abs=0.015)
    assert neither == pytest.approx(0.02 + 0.11 * 0.05, abs=0.01)
    assert unseen == pytest.approx(0.02 + 0.11 * 0.98, abs=0.02)


def test_captions_have_their_share(tiny_world, text, tiny_recipe):
    """Settled ones are learnt where words decide, free ones where the picture shows, edits everywhere."""
    batches, count = _batches(tiny_world, text, tiny_recipe.model_copy(update={"captions": 0.6})), 600
    rows = [batches._row(np.random.default_rng([3, 0, n])) for n in range(count)]
    assert sum(row[4] == 0 for row in rows) / count == pytest.approx(0.6 + 0.4 * 0.02, abs=0.05)
    settled = sum(row[5] == LEVELS["settled"] for row in rows) / count
    free = sum(row[5] == LEVELS["free"] for row in rows) / count
    assert (settled, free) == pytest.approx((0.6 * edits.SETTLED, 0.6 * (1 - edits.SETTLED)), abs=0.05)
    assert {row[5] for row in rows if row[4] == 1} == {(0.0, 1.0)}
    for captions in (0.0, 0.11, 1.0):
        assert sum(edits.train_mix(captions).values()) == pytest.approx(1)


def test_a_row_is_learnt_at_its_own_noise_levels(tiny_world, text, tiny_recipe):
    recipe = tiny_recipe.model_copy(update={"batch": 64, "captions": 0.8})
    batch, seen = _batches(tiny_world, text, recipe, batch=64)[0], []

    class Seeing(torch.nn.Module):
        def forward(self, sample, t, tokens, class_labels):
            seen.append(t)
            return type("Answer", (), {"sample": torch.zeros_like(sample[:, :48])})

    for step in range(20):
        denoiser._loss(Seeing(), PixelUnshuffleCodec(4), batch, recipe, step, Share(), Accelerator())
    for levels in ((0.0, 1.0), *LEVELS.values()):
        rows = (batch["levels_B2"] == torch.tensor(levels)).all(dim=1)
        t = torch.stack(seen)[:, rows].float()
        first, last = (1000 * level for level in levels)
        assert first <= t.min() < first + 50
        assert last - 50 < t.max() < last
        assert (t >= first + 0.9 * (last - first)).float().mean() == pytest.approx(0.28, abs=0.06)


def test_the_loss_is_the_weighed_error_of_the_clean_latents(tiny_world, text, tiny_recipe):
    """Against a computation in numpy, for a network that says a constant."""
    recipe = tiny_recipe.model_copy(update={"seed": 3})
    batch = _batches(tiny_world, text, recipe)[1]
    seen = {}

    class Constant(torch.nn.Module):
        def forward(self, sample, t, tokens, class_labels):
            seen.update(sample=sample, t=t)
            return type("Answer", (), {"sample": torch.full_like(sample[:, :48], 0.25)})

    found = denoiser._loss(Constant(), PixelUnshuffleCodec(4), batch, recipe, 1, Share(), Accelerator())
    source, target, weight = (batch[key].numpy().astype(np.float64) for key in ("source_BCHW", "target_BCHW", "weight_B1HW"))
    told = batch["shown_B"].numpy()[:, None, None, None]
    expected = (weight * (2 * source * told + 0.25 - 2 * target) ** 2).mean()
    assert float(found) == pytest.approx(expected, rel=1e-5)
    # What the network is shown: noisy latents at level t beside the unscaled source.
    a = ALPHAS_CUMPROD[seen["t"]].view(-1, 1, 1, 1)
    clean = PixelUnshuffleCodec(4).encode(batch["target_BCHW"])
    noise = (seen["sample"][:, :48] - a.sqrt() * clean) / (1 - a).sqrt()
    assert noise.mean().abs() < 0.1
    assert noise.std() == pytest.approx(1, abs=0.1)
    assert torch.allclose(seen["sample"][:, 48:] * 2, PixelUnshuffleCodec(4).encode(batch["source_BCHW"]), atol=1e-6)


def test_the_seed_of_the_noise_is_pinned():
    assert denoiser.noise_seed(3, 1) == 11_425_928_242_767_342_472
    seeds = {denoiser.noise_seed(seed, step) for seed in range(20) for step in range(20)}
    assert len(seeds) == 400
    for seed in seeds:
        torch.Generator().manual_seed(seed)  # takes all 64 bits


def test_the_last_timestep_is_noise():
    assert ALPHAS_CUMPROD[999].sqrt() < 0.0011
    assert ALPHAS_CUMPROD[0] > 0.999
