"""The media encoder's training: the contrastive loss in closed form, what a batch holds, and that a run can be resumed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from paintover.models.bundle import load
from paintover.models.small_encoder import CLIP, SmallEncoder
from paintover.training import checkpoint
from paintover.training.batches import Share
from paintover.training.encoder import contrast, masked, train
from paintover.training.encoder_batches import EncoderBatches
from paintover.training.encoder_recipe import EncoderRecipe

SMALL = EncoderRecipe(
    init=None, size=32, width=16, sights=(32, 32), sounds=(32, 32), labels=5, crops=2, clips=1, scenes=3, warmup=1, steps=4,
    cooldown=0, checkpoint_every=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return load(tiny_bundle, device="cpu")


def test_the_loss_of_two_pairs_in_closed_form():
    rows_NE = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    said = contrast(rows_NE, torch.tensor([0, 0, 1, 1]), torch.tensor(3.0))
    assert_allclose(said, -math.log(math.exp(3) / (math.exp(3) + 2)), rtol=1e-6)


def test_a_row_that_is_like_none_teaches_by_being_another():
    rows_NE = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    said = contrast(rows_NE, torch.tensor([0, 0, 7]), torch.tensor(3.0))
    assert_allclose(said, -math.log(math.exp(3) / (math.exp(3) + 1)), rtol=1e-6)


def test_a_spectrogram_is_left_out_in_stripes():
    left = masked(torch.ones(4, 3, 64, 192), torch.Generator().manual_seed(1)) < 0
    assert left.any()
    assert not left.all()
    assert (left == left[:, :1]).all(), "the same in all three channels"


def test_a_batch_has_labels_with_pictures_sounds_and_words(bundle, tiny_world, tiny_recordings):
    net = SmallEncoder(bundle.text, SMALL.width, SMALL.size, SMALL.sights, SMALL.sounds)
    batches = EncoderBatches(*tiny_world, tiny_recordings, net, SMALL, Share())
    heard = 0
    for step in range(6):
        batch = batches[step]
        assert batch["clips_SN"].shape[1] == CLIP
        assert len(batch["pooled_LD"]) == len(batch["word_L"]) == SMALL.labels
        assert set(batch["clip_S"].tolist()) <= set(batch["word_L"].tolist())
        numbers, counts = np.unique(batch["crop_K"].numpy(), return_counts=True)
        assert (counts == SMALL.crops).all()
        assert set(numbers) <= set(range(SMALL.labels))
        again = batches[step]
        assert all(torch.equal(batch[name], again[name]) for name in batch)
        heard += len(batch["clip_S"])
    assert heard


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(bundle, tiny_world, tiny_recordings, tmp_path):
    whole = train(tmp_path / "whole", SMALL, *tiny_world, tiny_recordings, bundle, workers=0)
    train(tmp_path / "parts", SMALL.model_copy(update={"steps": 2}), *tiny_world, tiny_recordings, bundle, workers=0)
    resumed = train(tmp_path / "parts", SMALL, *tiny_world, tiny_recordings, bundle, workers=0)
    states = []
    for folder in (whole, resumed):
        net = SmallEncoder(bundle.text, SMALL.width, SMALL.size, SMALL.sights, SMALL.sounds)
        ema = SmallEncoder(bundle.text, SMALL.width, SMALL.size, SMALL.sights, SMALL.sounds)
        checkpoint.load(folder, net, ema, torch.optim.AdamW(net.parameters(), fused=True))
        states.append(net.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
