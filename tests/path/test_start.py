from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintover.path.schedule import Schedule
from paintover.path.start import equal_start

LINEAR = {"beta_start": 0.0001, "beta_schedule": "linear", "timestep_spacing": "trailing"}
MORE = Schedule.from_config(LINEAR | {"beta_end": 0.0275})  # ends in more noise than Stable Diffusion's
LESS = Schedule.from_config(LINEAR | {"beta_end": 0.005})


def left(schedule: Schedule, start: float) -> float:
    """alpha_bar at a start, walked in as many steps as there are timesteps."""
    return schedule.alphas_cumprod[round(start * len(schedule.alphas_cumprod)) - 1]


@given(st.integers(1, 999), st.floats(0.0, 0.999))
def test_stable_diffusion_s_own_starts_are_themselves(t, fraction):
    usual = Schedule.stable_diffusion()
    assert equal_start(usual, t / 1000) == t / 1000
    assert 0 <= equal_start(usual, (t - fraction) / 1000) - (t - fraction) / 1000 < 1e-3


@given(st.integers(1, 999))
def test_it_is_the_smallest_start_that_leaves_no_more_of_the_picture(t):
    level = left(Schedule.stable_diffusion(), t / 1000)
    start = equal_start(MORE, t / 1000)
    assert left(MORE, start) <= level
    assert start == 0.001 or left(MORE, start - 0.001) > level


@pytest.mark.parametrize("schedule", [MORE, LESS, Schedule.stable_diffusion()])
def test_more_is_more_and_the_ends_are_the_ends(schedule):
    starts = [equal_start(schedule, t / 1000) for t in range(1001)]
    assert starts[0] == 0
    assert starts[-1] == 1
    assert all(before <= after for before, after in pairwise(starts))


def test_a_schedule_that_never_has_so_much_noise_starts_at_its_end():
    assert equal_start(LESS, 0.99) == 1
