from __future__ import annotations

from itertools import pairwise
from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paintover.path.schedule import Schedule
from paintover.path.start import noise, polar, start_leaving

LINEAR = {"beta_start": 0.0001, "beta_schedule": "linear", "timestep_spacing": "trailing"}
USUAL = Schedule.stable_diffusion()
MORE = Schedule.from_config(LINEAR | {"beta_end": 0.0275})  # ends in more noise than Stable Diffusion's
LESS = Schedule.from_config(LINEAR | {"beta_end": 0.005})
EACH = pytest.mark.parametrize("schedule", [USUAL, MORE, LESS])


def of_a_picture(schedule: Schedule, start: float) -> float:
    """sqrt(alpha_bar) at a start, walked in as many steps as there are timesteps."""
    return sqrt(schedule.alphas_cumprod[round(start * len(schedule.alphas_cumprod)) - 1])


@EACH
@given(left=st.floats(0, 1))
def test_it_is_the_smallest_start_that_leaves_no_more_of_the_picture(schedule, left):
    start = start_leaving(schedule, left)
    assert of_a_picture(schedule, start) <= left or start == 1
    assert start == 0.001 or of_a_picture(schedule, start - 0.001) > left


@EACH
def test_more_that_is_left_is_a_later_start(schedule):
    starts = [start_leaving(schedule, n / 1000) for n in range(1001)]
    assert starts[0] == 1
    assert starts[-1] == 0.001
    assert all(before >= after for before, after in pairwise(starts))


def test_schedules_differ_in_what_they_leave():
    assert start_leaving(USUAL, 0.12) == pytest.approx(0.9, abs=0.01)
    assert start_leaving(MORE, 0.12) == pytest.approx(0.55, abs=0.01)
    assert start_leaving(LESS, 0.01) == 1  # it never has so much noise


@settings(deadline=None)
@given(alpha=st.floats(0, 1), seed=st.integers(0, 100), scale=st.floats(0.1, 10))
def test_polar_is_as_long_as_its_ends_are(alpha, seed, scale):
    """methods.md I.2 15."""
    x, y = scale * noise(seed, (1, 4, 8, 8)), noise(seed + 1, (1, 4, 8, 8))
    between = polar(x, y, alpha)
    torch.testing.assert_close(between.norm(), alpha * x.norm() + (1 - alpha) * y.norm())
    mean = alpha * x + (1 - alpha) * y
    assert torch.nn.functional.cosine_similarity(between.flatten(), mean.flatten(), dim=0) > 0.9999


def test_polar_at_its_ends_is_what_is_there():
    x, y = noise(1, (1, 4, 8, 8)), noise(2, (1, 4, 8, 8))
    assert torch.equal(polar(x, y, 1), x)
    assert torch.equal(polar(x, y, 0.0), y)
    assert polar(x, -x, 0.5).isfinite().all()
