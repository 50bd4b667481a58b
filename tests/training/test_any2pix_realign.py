"""InstructAny2Pix's fourth stage: UNet and adapter learn and nothing else does; what is dropped, noised, and left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from paintover.errors import PaintoverError
from paintover.models.bundle import load
from paintover.scenes.scene import Scene
from paintover.training import checkpoint
from paintover.training.any2pix_realign import Learner, train
from paintover.training.any2pix_realign_batches import RealignBatches
from paintover.training.any2pix_realign_recipe import RealignRecipe
from paintover.training.recipe import settle

SMALL = RealignRecipe(sizes=(32, 64), batch=6, instruct=0.34, captions=0.17, warmup=1, steps=3, cooldown=0, checkpoint_every=3)


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return load(tiny_bundle, device="cpu")


def _batches(bundle, tiny_world, tiny_recordings, **other):
    recipe = SMALL.model_copy(update=other)
    adapter = bundle.adapted().adapter
    norm = bundle.any2pix().settings.norm
    return RealignBatches(*tiny_world, tiny_recordings, bundle.encoder(), bundle.text, norm, adapter.locals, recipe)


def test_rows_with_embeddings_and_rows_without(bundle, tiny_world, tiny_recordings):
    batches = _batches(bundle, tiny_world, tiny_recordings, drop_global=0.0, drop_local=0.0, noise=0.0)
    for step in range(2):
        batch = batches[step]
        assert batch["source_BCHW"].shape == (6, 3, *2 * [SMALL.sizes[step]])
        assert len(batch["media_MSE"]) == SMALL.rows()["media"] == 3
        assert_allclose(batch["media_MSE"][:, 0].norm(dim=1), bundle.any2pix().settings.norm, rtol=1e-4)


def test_what_is_dropped_is_zeros(bundle, tiny_world, tiny_recordings):
    batch = _batches(bundle, tiny_world, tiny_recordings, drop_global=1.0, drop_local=1.0)[0]
    assert not batch["media_MSE"].any()


def test_half_of_the_embeddings_are_dropped(bundle, tiny_world, tiny_recordings):
    batches = _batches(bundle, tiny_world, tiny_recordings, batch=120, instruct=0.0, captions=0.0, sizes=(32,))
    told_MS = batches[0]["media_MSE"].flatten(2).abs().sum(dim=2) > 0
    assert 0.35 < told_MS[:, 0].float().mean() < 0.65  # 120 draws of a half: further off once in a thousand runs


def test_noise_is_as_long_as_it_says(bundle, tiny_world, tiny_recordings):
    batches = _batches(bundle, tiny_world, tiny_recordings, batch=40, drop_global=0.0, noise=0.5, sizes=(32,))
    clean = _batches(bundle, tiny_world, tiny_recordings, batch=40, drop_global=0.0, noise=0.0, sizes=(32,))
    cosines = torch.nn.functional.cosine_similarity(batches[0]["media_MSE"][:, 0], clean[0]["media_MSE"][:, 0])
    assert_allclose(cosines.mean(), (1 + 0.25) ** -0.5, atol=0.05)


def test_what_learns(bundle, tiny_world, tiny_recordings, tmp_path):
    before = Learner(bundle, SMALL).net.state_dict()
    frozen = {name: value.clone() for name, value in _others(bundle).items()}
    last = train(tmp_path, SMALL, bundle, *tiny_world, tiny_recordings, workers=0)
    learnt = Learner(bundle, SMALL)
    checkpoint.load(last, learnt.net, Learner(bundle, SMALL).net, torch.optim.AdamW(learnt.groups(), fused=True))
    after = learnt.net.state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"unet", "adapter"} == {name.split(".")[0] for name in before}
    assert all(torch.equal(value, frozen[name]) for name, value in _others(bundle).items())


def test_all_rows_cannot_be_without_embeddings(tmp_path):
    with pytest.raises(PaintoverError, match="leave no row with embeddings"):
        settle(tmp_path, {"instruct": "0.6", "captions": "0.4"}, RealignRecipe)


def test_a_scene_is_seen_as_the_encoder_sees_a_file(bundle, tiny_world, tiny_recordings):
    batches = _batches(bundle, tiny_world, tiny_recordings)
    scene = Scene(batches._referring(np.random.default_rng(1), (0.3, 0.5)).after.backdrop)
    rgb_HWC = np.rint(scene.render(96) * 255).astype(np.uint8)
    assert_allclose(batches.see(scene), bundle.encoder().see([rgb_HWC])[0])


def _others(bundle) -> dict[str, torch.Tensor]:
    """What the stage must leave as it was: the bundle's own networks, each of them."""
    parts = bundle.any2pix()
    modules = {"unet": bundle.denoiser.unet, "prior": parts.prior, "encoder": bundle.encoder()}
    modules |= {str(n): module for n, module in enumerate(parts.language.modules)}
    return {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}


def test_learning_rates_are_those_of_the_recipe():
    """The loop multiplies each part's own rate by the recipe's share of it."""
    recipe = SMALL.model_copy(update={"warmup": 10, "steps": 100, "cooldown": 50})
    assert_allclose([recipe.share(step) for step in (4, 30, 75)], [0.5, 1.0, 0.5])
