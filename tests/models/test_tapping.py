from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from paintover.models import load
from paintover.models.taps import Site, Taps

T_B = torch.tensor([3, 400, 980])


@pytest.fixture
def door(tiny_bundle):
    from paintover.models.bundle import _load

    _load.cache_clear()  # a network that nobody has tapped before
    return load(tiny_bundle("text-to-image"), device="cpu").denoiser


def inputs(rows=3, size=(8, 8)):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, 4, *size, generator=generator), torch.randn(rows, 7, 32, generator=generator)


class Recording(Taps):
    def __init__(self, maps: bool = True) -> None:
        self.with_maps = maps
        self.qkvs: dict[Site, tuple[Tensor, Tensor, Tensor]] = {}
        self.seen_maps: dict[Site, Tensor] = {}
        self.features: dict[Site, Tensor] = {}

    def qkv(self, site, q_HND, k_HLD, v_HLD):
        self.qkvs[site] = q_HND, k_HLD, v_HLD
        return q_HND, k_HLD, v_HLD

    def wants_maps(self, site):
        return self.with_maps

    def maps(self, site, maps_HNL):
        self.seen_maps[site] = maps_HNL
        return maps_HNL

    def feature(self, site, feature_CHW):
        self.features[site] = feature_CHW
        return feature_CHW


class Replacing(Taps):
    """Puts in what was recorded, of the kinds asked for."""

    def __init__(self, recorded: Recording, what: str) -> None:
        self.recorded, self.what = recorded, what

    def qkv(self, site, q_HND, k_HLD, v_HLD):
        return self.recorded.qkvs[site] if self.what == "qkv" else (q_HND, k_HLD, v_HLD)

    def wants_maps(self, site):
        return self.what == "maps"

    def maps(self, site, maps_HNL):
        return self.recorded.seen_maps[site]

    def feature(self, site, feature_CHW):
        return self.recorded.features[site] if self.what == "feature" else feature_CHW


def test_an_untapped_network_is_untouched_until_and_after_it_is_tapped(door):
    x, tokens = inputs()
    before = door(x, T_B, tokens)
    processors = {type(p).__name__ for p in door.unet.attn_processors.values()}
    assert processors == {"AttnProcessor2_0"}
    door(x, T_B, tokens, taps=[Recording(), None, None])
    assert torch.equal(door(x, T_B, tokens), before)
    assert torch.equal(door(x, T_B, tokens, taps=[None, Taps(), None]), before)


def test_sites_of_any_aspect_ratio(door):
    x, tokens = inputs(1, (6, 14))
    recording = Recording()
    door(x, T_B[:1], tokens, taps=[recording])
    assert [(s.kind, s.part, s.index, s.of, s.size_HW) for s in recording.seen_maps] == [
        ("self", "down", 0, 1, (6, 14)),
        ("cross", "down", 0, 1, (6, 14)),
        ("self", "mid", 0, 1, (3, 7)),
        ("cross", "mid", 0, 1, (3, 7)),
        ("self", "up", 0, 2, (6, 14)),
        ("cross", "up", 0, 2, (6, 14)),
        ("self", "up", 1, 2, (6, 14)),
        ("cross", "up", 1, 2, (6, 14)),
    ]
    assert [(s.part, s.index, s.of, s.size_HW) for s in recording.features] == [
        ("down", 0, 2, (6, 14)),
        ("down", 1, 2, (3, 7)),
        ("mid", 0, 2, (3, 7)),
        ("mid", 1, 2, (3, 7)),
        *(("up", n, 4, (3, 7)) for n in (0, 1)),
        *(("up", n, 4, (6, 14)) for n in (2, 3)),
    ]


def test_depth_is_told_in_another_networks_layers():
    deep = [Site("self", "up", index, 4, (8, 8)).beyond(3, 9) for index in range(4)]
    assert deep == [False, False, True, True]
    assert [Site("self", "up", index, 9, (8, 8)).beyond(3, 9) for index in (2, 3)] == [False, True]


def test_maps_are_softmax_of_queries_and_keys(door):
    x, tokens = inputs()
    recording = Recording()
    door(x, T_B, tokens, taps=[None, recording, None])
    assert len(recording.seen_maps) == 8
    for site, maps in recording.seen_maps.items():
        q, k, v = recording.qkvs[site]
        scores = torch.einsum("hnd,hld->hnl", q, k) / math.sqrt(q.shape[-1])
        by_hand = scores.exp() / scores.exp().sum(-1, keepdim=True)
        torch.testing.assert_close(maps, by_hand, atol=1e-6, rtol=1e-5)
        assert v.shape == k.shape
        assert maps.shape[1:] == (math.prod(site.size_HW), 7 if site.kind == "cross" else math.prod(site.size_HW))


def test_what_is_recorded_is_what_the_network_computes(door):
    """Against diffusers' own modules, asked by hooks of this test's own."""
    x, tokens = inputs()
    seen: dict[str, Tensor] = {}
    attention = door.unet.up_blocks[1].attentions[1].transformer_blocks[0].attn2
    block = door.unet.up_blocks[1].resnets[0]
    hooks = [
        attention.to_q.register_forward_hook(lambda _m, _a, out: seen.update(q=out)),
        block.register_forward_hook(lambda _m, args, out: seen.update(into=args[0], out=out)),
    ]
    recording = Recording()
    door(x, T_B, tokens, taps=[None, None, recording])
    for hook in hooks:
        hook.remove()
    q = recording.qkvs[Site("cross", "up", 1, 2, (8, 8))][0]
    torch.testing.assert_close(q.transpose(0, 1).flatten(1), seen["q"][2], atol=0, rtol=0)
    added = recording.features[Site("feature", "up", 2, 4, (8, 8))]
    torch.testing.assert_close(added, (seen["out"] - block.conv_shortcut(seen["into"]))[2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("what", ["qkv", "maps", "feature"])
def test_replacing_with_itself_changes_nothing_and_with_anothers_changes_that_row_alone(door, what):
    x, tokens = inputs()
    plain = door(x, T_B, tokens)
    mine, other = Recording(), Recording()
    recorded = door(x, T_B, tokens, taps=[mine, other, None])
    torch.testing.assert_close(recorded, plain, atol=1e-5, rtol=0)
    assert torch.equal(recorded[2], plain[2])
    same = door(x, T_B, tokens, taps=[Replacing(mine, what), None, None])
    torch.testing.assert_close(same, plain, atol=1e-5, rtol=0)
    changed = door(x, T_B, tokens, taps=[Replacing(other, what), None, None])
    assert (changed[0] - plain[0]).abs().max() > 1e-3
    torch.testing.assert_close(changed[1:], plain[1:], atol=1e-6, rtol=0)


def test_another_length_may_be_attended_to(door):
    """Keys and values said twice weigh the same: nothing changes; a zeroed value takes half of the answer away."""

    class Twice(Taps):
        def __init__(self, share: float) -> None:
            self.share = share

        def qkv(self, site, q_HND, k_HLD, v_HLD):
            return q_HND, torch.cat([k_HLD, k_HLD], 1), torch.cat([v_HLD, self.share * v_HLD], 1)

    x, tokens = inputs()
    plain = door(x, T_B, tokens)
    twice, half = (door(x, T_B, tokens, taps=[None, Twice(share), None]) for share in (1.0, 0.0))
    torch.testing.assert_close(twice, plain, atol=1e-5, rtol=0)
    assert (half[1] - plain[1]).abs().max() > 1e-3


def test_taps_while_gradients_are_recorded(door):
    """A map's gradient by the tokens, against a difference quotient; the untapped row passes its gradient too."""
    x, tokens = inputs(2)
    tokens = tokens.requires_grad_()
    recording = Recording()
    with torch.enable_grad():
        eps = door(x, T_B[:2], tokens, taps=[recording, None])
        site = Site("cross", "up", 0, 2, (8, 8))
        recording.seen_maps[site][..., 2].sum().backward(retain_graph=True)
        grad = tokens.grad.clone()
        eps[1].sum().backward()
    assert grad[0].abs().max() > 0
    assert grad[1].abs().max() == 0
    assert tokens.grad[1].abs().max() > 0
    direction = torch.randn(7, 32, generator=torch.Generator().manual_seed(2))
    sums = []
    for sign in (1, -1):
        moved = tokens.detach().clone()
        moved[0] += sign * 1e-2 * direction
        again = Recording()
        door(x, T_B[:2], moved, taps=[again, None])
        sums.append(again.seen_maps[site][..., 2].double().sum())
    quotient = (sums[0] - sums[1]) / 2e-2
    assert quotient == pytest.approx(float((grad[0] * direction).sum()), rel=0.02)


def test_half_precision_keeps_maps_in_float32(tiny_bundle):
    door = load(tiny_bundle("text-to-image"), device="cpu", dtype=torch.bfloat16).denoiser
    x, tokens = inputs()
    recording, features = Recording(), Recording(maps=False)
    eps = door(x, T_B, tokens, taps=[recording, None, None])
    assert eps.dtype == torch.float32
    assert {maps.dtype for maps in recording.seen_maps.values()} == {torch.float32}
    door(x, T_B, tokens, taps=[features, None, None])
    again = door(x, T_B, tokens, taps=[Replacing(features, "feature"), None, None])
    torch.testing.assert_close(again, door(x, T_B, tokens), atol=1e-3, rtol=0)
