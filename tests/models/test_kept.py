from __future__ import annotations

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel

from paintover.models.kept import KeptLinear, keep_text


@pytest.fixture
def pair():
    torch.manual_seed(0)
    plain = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=12,
    ).eval()
    kept = copy.deepcopy(plain)
    keep_text(kept)
    return plain, kept


X, TOKENS = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 12)


def projections(unet, monkeypatch) -> list[int]:
    """Counts the products with the text that are really made."""
    made = []
    original = torch.nn.Linear.forward

    def counting(self, x):
        if isinstance(self, KeptLinear):
            made.append(1)
        return original(self, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", counting)
    return made


@torch.no_grad()
def test_same_answers_with_the_text_seen_once(pair, monkeypatch):
    plain, kept = pair
    made = projections(kept, monkeypatch)
    layers = sum(isinstance(module, KeptLinear) for module in kept.modules())
    assert layers > 4
    for t in (900, 500, 100):
        assert torch.equal(kept(X, t, TOKENS).sample, plain(X, t, TOKENS).sample)
    assert len(made) == layers
    other = TOKENS + 1
    for tokens in (other, TOKENS, other):
        assert torch.equal(kept(X, 5, tokens).sample, plain(X, 5, tokens).sample)
    assert len(made) == 2 * layers
    held = [module._answers for module in kept.modules() if isinstance(module, KeptLinear)]
    assert {len(answers) for answers in held} == {2}
    del other, tokens
    assert {len(answers) for answers in held} == {1}


@torch.no_grad()
def test_new_weights_and_tokens_written_in_place_are_noticed(pair):
    plain, kept = pair
    tokens = TOKENS.clone()
    kept(X, 5, tokens)
    for change in (lambda net: tokens.mul_(2) if net is plain else None, lambda net: [p.mul_(1.5) for p in net.parameters()]):
        change(plain)
        change(kept)
        assert torch.equal(kept(X, 5, tokens).sample, plain(X, 5, tokens).sample)
    kept.load_state_dict(state := {name: value + 0.01 for name, value in plain.state_dict().items()})
    plain.load_state_dict(state)
    assert torch.equal(kept(X, 5, tokens).sample, plain(X, 5, tokens).sample)


def test_gradients_flow(pair):
    plain, kept = pair
    for net in (plain, kept):
        for _ in range(2):
            net.zero_grad()
            net(X, 5, TOKENS).sample.square().sum().backward()
    for theirs, ours in zip(plain.parameters(), kept.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
