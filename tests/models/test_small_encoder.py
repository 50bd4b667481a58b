"""The built-in media encoder: what it answers has length 1, whatever it is given, and does not depend on its neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from paintover.models.bundle import load
from paintover.models.encoder_file import load_encoder, save_encoder
from paintover.models.small_encoder import BANDS, CLIP, CLIPS, FRAMES, HOP, RATE, WINDOW, SmallEncoder, clips_of

TALL = np.zeros((900, 2, 3), np.uint8)


@pytest.fixture(scope="module")
def encoder(tiny_bundle) -> SmallEncoder:
    torch.manual_seed(3)
    return SmallEncoder(
        load(tiny_bundle("builtin"), device="cpu").text, width=24, size=32, sights=(32, 32), sounds=(32, 32)
    ).eval()


def _noise(samples, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, samples).astype(np.float32)


@pytest.mark.parametrize("samples", [0, 1, 900, CLIP, CLIP + 1, 5 * CLIP])
def test_a_sound_of_any_length_is_heard(encoder, samples):
    heard_BE = encoder.hear([_noise(samples), np.zeros(samples, np.float32)])
    assert heard_BE.shape == (2, 24)
    assert torch.isfinite(heard_BE).all()
    assert_allclose(heard_BE.norm(dim=1), 1, rtol=1e-5)


def test_a_picture_of_any_shape_is_seen(encoder):
    seen_BE = encoder.see([TALL, np.full((1, 1, 3), 255, np.uint8), np.zeros((40, 60, 3), np.uint8)])
    assert_allclose(seen_BE.norm(dim=1), 1, rtol=1e-5)


def test_rows_do_not_depend_on_their_neighbours(encoder):
    waves = [_noise(4 * CLIP, 1), _noise(300, 2)]
    assert_allclose(encoder.hear(waves), torch.cat([encoder.hear([wave]) for wave in waves]), atol=1e-5)
    texts = ["a dog", "the sound of a rooster"]
    assert_allclose(encoder.read(texts), torch.cat([encoder.read([text]) for text in texts]), atol=1e-6)


def test_loudness_is_not_heard(encoder):
    wave = _noise(2 * CLIP)
    assert_allclose(encoder.hear([wave]), encoder.hear([0.01 * wave]), atol=1e-4)


def test_clips_are_spread_over_a_sound():
    wave = np.arange(10 * CLIP, dtype=np.float32)
    clips_KN = clips_of(wave) * wave.max()
    assert clips_KN.shape == (CLIPS, CLIP)
    assert_allclose(clips_KN[:, 0], [0, 4.5 * CLIP, 9 * CLIP], atol=2)


def test_the_spectrogram_is_transformers(encoder):
    wave = _noise(CLIP)
    own_MT = encoder.spectrogram(torch.from_numpy(wave)[None])[0, 0] * 3
    mel = mel_filter_bank(WINDOW // 2 + 1, BANDS, 40.0, RATE / 2, RATE, norm=None, mel_scale="htk")
    theirs_MT = spectrogram(wave, window_function(WINDOW, "hann"), WINDOW, HOP, power=2.0, mel_filters=mel, mel_floor=0.0)
    assert own_MT.shape == (BANDS, FRAMES)
    assert_allclose(own_MT, np.log10(theirs_MT[:, :FRAMES] + 1e-6), atol=2e-3)


def test_it_is_what_it_was_when_it_is_read_again(encoder, tiny_bundle, tmp_path):
    save_encoder(encoder, tmp_path, torch.float32)
    again = load_encoder(tmp_path, load(tiny_bundle("builtin"), device="cpu").text, torch.device("cpu"))
    assert_allclose(again.hear([_noise(900)]), encoder.hear([_noise(900)]), atol=1e-6)
    assert_allclose(again.read(["a dog"]), encoder.read(["a dog"]), atol=1e-6)
