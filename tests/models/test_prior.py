"""The refinement prior."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from transformers import GPT2Config, GPT2Model

from paintover.errors import ModelError
from paintover.models.prior import SINES, Prior, PriorConfig, sines


@pytest.fixture
def prior() -> Prior:
    torch.manual_seed(0)
    return Prior(PriorConfig(12, 16, 2, 4)).eval()


def test_sines_are_those_that_timesteps_are_told_by():
    scores_B = torch.tensor([2.0, 6.5, 9.25])
    wanted = get_timestep_embedding(scores_B, SINES, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(sines(scores_B), wanted)


@torch.no_grad()
def test_is_the_transformer_over_marked_inputs(prior):
    e_BE, score_B = torch.randn(3, 12), torch.tensor([2.0, 5.0, 6.5])
    unit_B1E = (e_BE / e_BE.norm(dim=1, keepdim=True))[:, None]

    def mark(which, kind):
        return which.weight[kind].expand(3, 1, -1)

    inputs = [
        mark(prior.start, 1), prior.media(20 * unit_B1E), mark(prior.end, 1),
        mark(prior.start, 3), prior.score(sines(score_B)[:, None]), mark(prior.end, 3), prior.query.expand(3, 1, -1),
    ]  # fmt: skip
    gpt = GPT2Model(GPT2Config(vocab_size=1, n_positions=16, n_embd=16, n_layer=2, n_head=4)).eval()
    gpt.load_state_dict(prior.model.state_dict())
    wanted = prior.out(gpt(inputs_embeds=torch.cat(inputs, dim=1)).last_hidden_state[:, -1])
    torch.testing.assert_close(prior.refine(e_BE, score_B), wanted, rtol=0, atol=1e-5)


@torch.no_grad()
def test_knows_directions_alone_and_the_score(prior):
    e_BE = torch.randn(2, 12)
    high = torch.full((2,), 6.5)
    torch.testing.assert_close(prior.refine(7 * e_BE, high), prior.refine(e_BE, high))
    assert not torch.allclose(prior.refine(e_BE, high), prior.refine(e_BE, high - 4))
    assert not torch.allclose(prior.refine(e_BE, high), prior.refine(e_BE.flip(0), high))


@torch.no_grad()
def test_guidance_goes_from_the_low_score_to_the_high_one(prior):
    e_BE = torch.randn(2, 12)
    high, low = (prior.refine(e_BE, torch.full((2,), score)) for score in (6.5, 2.0))
    for scale, wanted in ((1.0, high), (0.0, low), (10.0, low + 10 * (high - low))):
        torch.testing.assert_close(prior.guided(e_BE, 6.5, 2.0, scale), wanted, rtol=0, atol=1e-4)


def test_learns(prior):
    prior.refine(torch.randn(2, 12), torch.tensor([2.0, 6.0])).square().sum().backward()
    used = (prior.start, prior.end, prior.media, prior.score, prior.out)
    assert all(parameter.grad.abs().sum() > 0 for module in used for parameter in module.parameters())
    assert prior.query.grad.abs().sum() > 0


def test_the_released_sizes():
    with torch.device("meta"):
        prior = Prior(PriorConfig.released())
    assert isinstance(prior.out, torch.nn.Identity)
    assert prior.score.weight.shape == (1024, 512)
    gpt2_medium = 354_823_168
    words = (50_257 - 1) * 1024
    assert sum(p.numel() for p in prior.model.parameters()) == gpt2_medium - words


@torch.no_grad()
def test_what_only_the_release_has():
    torch.manual_seed(0)
    prior = Prior(PriorConfig(16, 16, 1, 4, modalities=4, text=(2, 8), query=False)).eval()
    e_BE, score_B = torch.randn(1, 16), torch.tensor([6.0])
    assert not torch.allclose(prior.refine(e_BE, score_B, source=0), prior.refine(e_BE, score_B, source=3))
    before = prior.refine(e_BE, score_B)
    prior.text_LD.add_(1.0)
    assert not torch.allclose(prior.refine(e_BE, score_B), before)
    with pytest.raises(ModelError, match="query"):
        Prior(PriorConfig(8, 16, 1, 4, query=False))
