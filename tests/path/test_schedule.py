from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from paintover.errors import ModelError, RequestError
from paintover.path.schedule import Schedule

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}


def test_fifty_steps_with_both_offsets():
    with_offset = [step.t for step in Schedule.stable_diffusion(offset=1).steps(50)]
    without = [step.t for step in Schedule.stable_diffusion(offset=0).steps(50)]
    assert with_offset[:2] + with_offset[-2:] == [981, 961, 21, 1]
    assert without[:2] + without[-2:] == [980, 960, 20, 0]


@pytest.mark.parametrize("to_one", [False, True])
def test_the_end_of_the_walk(to_one):
    schedule = Schedule.stable_diffusion(set_alpha_to_one=to_one)
    last = schedule.steps(10)[-1]
    assert last.s == -1
    assert last.a_s == (1.0 if to_one else schedule.alphas_cumprod[0])


@pytest.mark.parametrize("to_one", [False, True])
@pytest.mark.parametrize("beta_schedule", ["scaled_linear", "linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize(("spacing", "steps"), [("leading", 7), ("leading", 50), ("trailing", 10), ("trailing", 50)])
def test_a_walk_is_that_of_diffusers_ddim(spacing, steps, beta_schedule, to_one):
    config = {**SD, "beta_schedule": beta_schedule, "timestep_spacing": spacing, "set_alpha_to_one": to_one, "steps_offset": 1}
    theirs = DDIMScheduler(**config)
    theirs.set_timesteps(steps)
    draw = torch.Generator().manual_seed(0)
    ours = x = torch.randn(1, 4, 4, 4, generator=draw)
    walk = Schedule.from_config(config).steps(steps)
    assert [step.t for step in walk] == theirs.timesteps.tolist()
    for step in walk:
        eps = torch.randn(x.shape, generator=draw)
        answer = theirs.step(eps, step.t, x)
        torch.testing.assert_close(step.x0(ours, eps), answer.pred_original_sample, rtol=1e-3, atol=1e-3)
        x, ours = answer.prev_sample, step.next(ours, eps)
        torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("eta", "most"), [(0.0, 1.5), (1.0, 1.5), (0.0, 1.0)])
def test_thresholded_steps_are_those_of_diffusers(eta, most):
    """Whose DDIM re-derives the noise from the thresholded x0 where it is asked to, as Imagen's sampler does."""
    config = {"beta_schedule": "squaredcos_cap_v2", "thresholding": True, "dynamic_thresholding_ratio": 0.95}
    config |= {"sample_max_value": most, "steps_offset": 0, "set_alpha_to_one": True}
    theirs = DDIMScheduler(**config)
    theirs.set_timesteps(10)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 8, 8, generator=draw)
    for step in Schedule.from_config(config).steps(10, eta=eta):
        eps, z = torch.randn(2, *x.shape, generator=draw)
        asked = {"eta": eta, "use_clipped_model_output": True, "variance_noise": z}
        answer = theirs.step(eps, step.t, x, **asked)
        torch.testing.assert_close(step.x0(x, eps), answer.pred_original_sample, rtol=1e-4, atol=1e-4)
        assert (step.x0(x, eps).abs() <= 1).all()
        torch.testing.assert_close(step.next(x, eps) + step.sigma * z, answer.prev_sample, rtol=1e-4, atol=1e-4)
        x = answer.prev_sample


def test_what_a_ddpm_scheduler_leaves_out_is_as_that_class_has_it():
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False)
    theirs.set_timesteps(20)
    left_out = {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2", "clip_sample": False}
    walk = Schedule.from_config(left_out).steps(20)
    assert [step.t for step in walk] == theirs.timesteps.tolist()
    assert walk[-1].a_s == 1.0


@given(spacing=st.sampled_from(["leading", "trailing", "linspace"]), steps=st.integers(1, 500))
def test_timesteps_are_those_of_diffusers(spacing, steps):
    theirs = DDIMScheduler(**SD, timestep_spacing=spacing, steps_offset=1)
    theirs.set_timesteps(steps)
    assert Schedule.from_config(theirs.config).timesteps(steps) == theirs.timesteps.tolist()[:steps]


@given(steps=st.integers(1, 300), start=st.floats(0, 1))
def test_a_late_start_keeps_the_last_steps(steps, start):
    full, late = Schedule.stable_diffusion().steps(steps), Schedule.stable_diffusion().steps(steps, start)
    assert len(late) == int(steps * start)
    assert [(s.t, s.s, s.a_t, s.a_s) for s in late] == [(s.t, s.s, s.a_t, s.a_s) for s in full[steps - len(late) :]]
    assert [s.i for s in late] == list(range(len(late)))


def test_the_inverse_step_undoes_the_step():
    x, eps = torch.randn(2, 1, 4, 4, 4, dtype=torch.float64)
    for step in Schedule.stable_diffusion().steps(20):
        torch.testing.assert_close(step.inverse().next(step.next(x, eps), eps), x)


@pytest.mark.parametrize(("steps", "start"), [(0, 1.0), (1001, 1.0), (1000, 1.0), (10, -0.1), (10, 1.1)])
def test_walks_that_do_not_exist(steps, start):
    with pytest.raises(RequestError):
        Schedule.stable_diffusion(offset=1).steps(steps, start)


@pytest.mark.parametrize(
    "config",
    [
        {"clip_sample": True},
        {"rescale_betas_zero_snr": True},
        {"_class_name": "FlowMatchEulerDiscreteScheduler"},
        {"beta_schedule": "sigmoid"},
        {"timestep_spacing": "karras"},
    ],
)
def test_what_we_cannot_honour_is_refused(config):
    with pytest.raises(ModelError):
        Schedule.from_config({**SD, **config}).steps(10)


def test_too_many_steps_are_told_how_many_there_can_be():
    with pytest.raises(RequestError, match=r"1000 steps .* at most 999; use --steps 999"):
        Schedule.stable_diffusion(offset=1).steps(1000)
    assert len(Schedule.stable_diffusion(offset=1).steps(999)) == 999
    assert len(Schedule.stable_diffusion(offset=0).steps(1000)) == 1000
