from __future__ import annotations

import pytest
import torch
from diffusers.pipelines.ledits_pp.pipeline_leditspp_stable_diffusion import LeditsGaussianSmoothing

from paintover.models.taps import Site
from paintover.path.masks import WordsSeen, difference_asks, difference_mask, differences, held_to, smooth, strongest
from paintover.path.predict import Condition
from paintover.path.schedule import Schedule
from paintover.path.start import noise


def test_a_difference_is_where_it_is_large():
    a = [torch.zeros(1, 2, 4, 4) for _ in range(3)]
    b = [torch.full((1, 2, 4, 4), 0.1) for _ in range(3)]
    for one in b:
        one[:, :, 1, 2] += 1.0
        one[:, :, 0, 0] += 50.0  # cut off at three times the mean, or the other place would be lost
    mask = difference_mask([*a, *b], 0.1)
    assert mask.nonzero().tolist() == [[0, 0], [1, 2]]
    assert torch.equal(difference_mask([*a, *[7 * one for one in b]], 0.1), mask)  # whatever the guidance
    assert not difference_mask([*a, *a], 0.5).any()
    even = [torch.full((1, 2, 4, 4), 0.1) for _ in range(3)]
    assert difference_mask([*a, *even], 0.5).all()  # a change of everything is one


@pytest.mark.parametrize("maps", [1, 8, 19])
def test_many_noises_are_asked_a_few_at_a_time(maps):
    [step] = Schedule.stable_diffusion().steps(1)
    a, b = (Condition(torch.full((1, 1, 1), mean)) for mean in (0.2, 0.9))
    x0, noises = noise(1, (1, 4, 6, 6)), noise(2, (maps, 4, 6, 6))
    rounds = []

    def asked(path):
        answers = None
        while True:
            try:
                asks = path.send(answers)
            except StopIteration as end:
                return end.value
            rounds.append(len(asks))
            answers = [ask.x_BCHW * ask.condition.tokens_BLD for ask in asks]

    found = asked(differences(x0, step, noises, a, b))
    whole = [ask.x_BCHW * ask.condition.tokens_BLD for ask in difference_asks(x0, step, noises, a, b)]
    assert all(torch.equal(one, other) for one, other in zip(found, whole, strict=True))
    assert rounds == {1: [2], 8: [16], 19: [16, 16, 6]}[maps]


def test_outside_of_the_mask_the_source_is_kept():
    mask = torch.zeros(4, 4)
    mask[1] = 1
    source = [torch.full((1, 2, 4, 4), float(i)) for i in range(6)]
    after = held_to(mask, source)
    for step in Schedule.stable_diffusion().steps(5):
        x = after(step, torch.full((1, 2, 4, 4), -1.0))
        assert (x[:, :, 1] == -1).all()
        assert (x[:, :, [0, 2, 3]] == step.i + 1).all()


@pytest.mark.parametrize(("threshold", "count"), [(0.0, 20), (0.5, 10), (0.9, 2), (1.0, 1)])
def test_the_strongest_places(threshold, count):
    d = torch.randperm(20, generator=torch.Generator().manual_seed(0)).view(4, 5).float()
    mask = strongest(d, threshold)
    assert mask.sum() == count
    assert d[mask == 1].min() == 20 - count


def test_smoothing_is_that_of_diffusers():
    d = torch.rand(5, 7, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(d[None, None], (1, 1, 1, 1), mode="reflect")
    torch.testing.assert_close(smooth(d), LeditsGaussianSmoothing("cpu")(padded)[0, 0])
    torch.testing.assert_close(smooth(torch.ones(1, 3)), torch.ones(1, 3))


def site(size_HW: tuple[int, int], kind="cross", part="up") -> Site:
    return Site(kind, part, 0, 1, size_HW)


def test_words_are_sought_on_the_grid_nearest_to_a_quarter():
    """Which, for latents whose sides are no multiples of 4, a network's own rounding decides."""
    generator = torch.Generator().manual_seed(0)
    seen = WordsSeen(2, (10, 14))
    for size_HW in ((10, 14), (5, 7), (3, 4)):
        maps = torch.rand(3, size_HW[0] * size_HW[1], 6, generator=generator).softmax(dim=2)
        assert seen.maps(site(size_HW), maps) is maps
    expected = strongest(smooth(maps[:, :, 1:3].sum(2).mean(0).view(3, 4)), 0.7)
    mask = seen.mask(0.7)
    assert mask.shape == (10, 14)
    assert torch.equal(mask[::5, ::5][:2, :2], expected[[0, 1]][:, [0, 1]])
    assert mask.mean() == pytest.approx(expected.mean().item(), abs=0.1)
    other = torch.rand(3, 12, 6, generator=generator).softmax(dim=2)
    seen.maps(site((3, 4), part="down"), other)
    both = seen.mask(0.7)
    seen.maps(site((3, 4), part="down"), other)  # a call that is made again is seen once
    assert torch.equal(seen.mask(0.7), both)
    assert len(seen.found) == 4


def test_words_are_seen_in_cross_attention_down_and_up():
    seen = WordsSeen(2, (8, 8))
    assert seen.wants_maps(site((2, 2)))
    assert not seen.wants_maps(site((2, 2), part="mid"))
    assert not seen.wants_maps(site((2, 2), kind="self"))
    assert seen.mask(0.5) is None
