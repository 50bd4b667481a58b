"""Steps of sde-dpm-solver++ against diffusers' scheduler, on the closed-form noise of Gaussian data."""

from __future__ import annotations

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from paintover.engine.engine import run
from paintover.path.dpm import SecondOrder, dpm_steps
from paintover.path.guidance import plain
from paintover.path.predict import Condition
from paintover.path.schedule import Schedule
from paintover.path.start import noise
from paintover.path.walk import walk

ABAR = torch.tensor(Schedule.stable_diffusion().alphas_cumprod)
TOLD = Condition(torch.zeros(1, 1, 1))


def gaussian(x: Tensor, t: Tensor, *_: object) -> Tensor:
    a = ABAR[t].view(-1, 1, 1, 1)
    return (1 - a).sqrt() * (x - 0.7 * a.sqrt()) / (a * 0.5**2 + 1 - a)


def theirs(**config: object) -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        algorithm_type="sde-dpmsolver++",
        steps_offset=1,
        lower_order_final=False,
        **config,
    )


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("count", [2, 7, 25])
def test_a_walk_is_that_of_diffusers(spacing, count, clean):
    schedule = Schedule(tuple(ABAR.tolist()), 1.0 if clean else ABAR[0].item(), 1, spacing)
    steps, zs = dpm_steps(schedule, count), noise(1, (count, 4, 4, 4)).split(1)
    scheduler = theirs(timestep_spacing=spacing, final_sigmas_type="zero" if clean else "sigma_min")
    scheduler.set_timesteps(count)
    assert [step.t for step in steps] == scheduler.timesteps.tolist()
    x = start = noise(0, (1, 4, 4, 4))
    for t, z in zip(scheduler.timesteps, zs, strict=True):
        x = scheduler.step(gaussian(x, t), t, x, variance_noise=z).prev_sample
    ours = run(walk(start, steps, SecondOrder(plain(TOLD)), after=lambda s, y: y + s.sigma * zs[s.i]), gaussian)
    torch.testing.assert_close(ours, x, rtol=0, atol=2e-4)


def test_skipping_leaves_out_the_noisy_end():
    schedule = Schedule.stable_diffusion()
    whole = dpm_steps(schedule, 12)
    last = dpm_steps(schedule, 10, 0.2)
    assert [(s.t, s.a_t, s.sigma) for s in last] == [(s.t, s.a_t, s.sigma) for s in whole[2:]]
    assert [s.i for s in last] == list(range(10))
