"""UniTune's interpolation: pictures whose differing places are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from paintover.path.interpolate import HIGH, LOW, blurred, estimate, mixed

SIDE = 128


def grey(level: float = 0.4, side: int = SIDE) -> Tensor:
    return torch.full((3, side, side), level)


def with_square(picture: Tensor, change: float, at: slice = slice(48, 80)) -> Tensor:
    edited = picture.clone()
    edited[:, at, at] += change
    return edited


def wires(phase: int, level: float = 0.25) -> Tensor:
    """A line, one pixel high, every 16 rows."""
    picture = grey()
    picture[:, phase::16] += level
    return picture


def test_the_changed_place_is_the_edits_and_the_rest_the_sources():
    found = estimate(with_square(grey(), 0.5), grey())
    assert not found.unfit
    assert (found.mask_HW[50:78, 50:78] == 1).all()
    outside = torch.ones(SIDE, SIDE, dtype=torch.bool)
    outside[38:90, 38:90] = False
    assert (found.mask_HW[outside] == 0).all()
    between = found.mask_HW[64, 38:50]
    assert (between.diff() >= 0).all()
    assert ((between > 0) & (between < 1)).any()


@pytest.mark.parametrize(("change", "wanted"), [(0.0, 0.0), (LOW, 0.0), ((LOW + HIGH) / 2, 0.5), (HIGH, 1.0), (0.5, 1.0)])
def test_it_is_soft_between_its_thresholds(change, wanted):
    """A change of the whole picture by one level is d everywhere: the maximum and the blur leave it as it is."""
    found = estimate(grey() - change, grey())
    torch.testing.assert_close(found.mask_HW, torch.full((SIDE, SIDE), wanted), rtol=0, atol=1e-5)


def test_windows_grow_with_the_picture():
    """The same picture at four times the size has the same mask at four times the size."""
    small, large = (estimate(with_square(grey(side=s), 0.5, slice(3 * s // 8, 5 * s // 8)), grey(side=s)) for s in (128, 512))
    quarter = torch.nn.functional.avg_pool2d(large.mask_HW[None], 4)[0]
    assert (quarter - small.mask_HW).abs().mean() < 0.002


def test_a_change_of_nearly_everything_is_unfit():
    nearly = grey()
    nearly[:, :100] += 0.5
    assert estimate(nearly, grey()).unfit == "the edit changes 80% of the picture"
    nearly = grey()
    nearly[:, :80] += 0.5
    assert not estimate(nearly, grey()).unfit


def test_what_would_be_seen_twice_is_unfit():
    """Wires that moved half way to the next: too thin for a mask, and each would be there twice, half as strong."""
    found = estimate(wires(8), wires(0))
    assert ((found.mask_HW > 0.1) & (found.mask_HW < 0.9)).float().mean() > 0.4
    assert found.unfit == "edit and picture do not fit together where they would meet"


@pytest.mark.parametrize("edge", [0, 6])
def test_a_thing_on_a_background_with_structure_is_fit(edge):
    """Sharp or soft, on a fence that stays, and in a model's noise."""
    thing = with_square(torch.zeros(3, SIDE, SIDE), 0.45)
    source = wires(0)
    noise = 0.05 * torch.randn(source.shape, generator=torch.Generator().manual_seed(0))
    found = estimate(source + (blurred(thing, edge / 3) if edge else thing) + noise, source)
    assert not found.unfit
    assert 0.06 < found.mask_HW.mean() < 0.2


def test_extremes_are_bit_exact():
    edited, source = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 3
    assert torch.equal(mixed(edited, source, torch.ones(8, 8)), edited)
    assert torch.equal(mixed(edited, source, torch.zeros(8, 8)), source)
    half = torch.zeros(8, 8)
    half[:, :4] = 1
    assert torch.equal(mixed(edited, source, half), torch.cat([edited[..., :4], source[..., 4:]], dim=-1))


def test_the_blur_is_a_gaussians():
    """An impulse becomes the normal density, and a constant stays."""
    impulse = torch.zeros(1, 65, 65, dtype=torch.float64)
    impulse[0, 32, 32] = 1
    at = torch.arange(65, dtype=torch.float64) - 32
    density = torch.exp(-0.5 * (at / 3) ** 2) / (3 * (2 * torch.pi) ** 0.5)
    torch.testing.assert_close(blurred(impulse, 3.0)[0], torch.outer(density, density), rtol=0, atol=2e-4)
    torch.testing.assert_close(blurred(grey(), 2.0), grey())


@pytest.mark.parametrize("size_HW", [(8, 8), (16, 200)])
def test_any_size(size_HW):
    source = torch.rand(3, *size_HW, generator=torch.Generator().manual_seed(0))
    assert estimate(source, source).mask_HW.sum() == 0
    assert estimate(1 - source, source).mask_HW.shape == size_HW
