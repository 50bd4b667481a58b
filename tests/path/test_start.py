from __future__ import annotations

from itertools import pairwise
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintover.path.schedule import Schedule
from paintover.path.start import start_leaving

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
