"""Flows, and a diffusion model seen as one, over the closed-form velocity and noise of Gaussian data."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from paintover.engine.engine import Engine, run
from paintover.errors import KnobError, ModelError, RequestError
from paintover.path.flow import FlowSchedule, FlowStep, Velocity, as_flow
from paintover.path.flowedit import Difference, flowedit
from paintover.path.guidance import classifier_free, plain
from paintover.path.inversion import Told
from paintover.path.inversion.ddim import ddim, direct
from paintover.path.predict import Condition
from paintover.path.rf_inversion import Drawn, etas
from paintover.path.schedule import Schedule
from paintover.path.start import late, noise, noises
from paintover.path.walk import Record, invert, walk

SHAPE, SPREAD = (1, 4, 8, 8), 0.5
FLOW = FlowSchedule(shift=3.0)
DIFFUSION = Schedule.stable_diffusion()
ABAR = torch.tensor(DIFFUSION.alphas_cumprod, dtype=torch.float64)


def centred(mean: float) -> Condition:
    return Condition(torch.full((1, 1, 1), mean, dtype=torch.float64))


A, B, NULL = centred(0.7), centred(-0.4), centred(0.0)


def velocity(x: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor | None, image: Tensor | None) -> Tensor:
    """E[noise - x0 | x] for x = (1 - sigma) x0 + sigma noise, x0 ~ N(m, s^2)."""
    sigma, m = (t.double() / 1000).view(-1, 1, 1, 1), tokens[:, :1, :1, None]
    variance = (1 - sigma) ** 2 * SPREAD**2 + sigma**2
    return (sigma - (1 - sigma) * SPREAD**2) / variance * (x - (1 - sigma) * m) - m


def eps(x: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor | None, image: Tensor | None) -> Tensor:
    a = ABAR[t].view(-1, 1, 1, 1)
    return (1 - a).sqrt() * (x - a.sqrt() * tokens[:, :1, :1, None]) / (a * SPREAD**2 + 1 - a)


# Both kinds of model, with steps and guides through `as_flow` and `Velocity`.
BOTH = pytest.mark.parametrize(("model", "schedule"), [(velocity, FLOW), (eps, DIFFUSION)], ids=["flow", "diffusion"])


def drawn(seed: int = 0) -> Tensor:
    return noise(seed, SHAPE).double()


def fresh(seed: int = 5):
    draw = noises(seed, SHAPE)
    return lambda: draw().double()


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 28, 50, 1000])
def test_sigmas_and_timesteps_are_diffusers(shift, steps):
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(steps)
    ours = FlowSchedule(shift).steps(steps)
    torch.testing.assert_close(torch.tensor([s.sigma_t for s in ours] + [0.0]), theirs.sigmas, rtol=0, atol=1e-7)
    torch.testing.assert_close(torch.tensor([s.t for s in ours]), theirs.timesteps, rtol=0, atol=1e-4)
    assert [a.sigma_s for a in ours[:-1]] == [b.sigma_t for b in ours[1:]]
    x, v = torch.ones(SHAPE), torch.full(SHAPE, 0.3)
    expected = theirs.step(v, theirs.timesteps[0], x).prev_sample
    torch.testing.assert_close(ours[0].next(x, v), expected, rtol=0, atol=1e-6)


def test_a_late_start_keeps_the_end_of_the_walk():
    whole = FLOW.steps(10)
    assert FLOW.steps(10, start=1.0) == whole
    assert [s.sigma_t for s in FLOW.steps(10, start=0.35)] == [s.sigma_t for s in whole[-3:]]
    assert FLOW.steps(10, start=0.0) == []
    x0, n = drawn(1), drawn(2)
    part = FLOW.steps(10, start=0.35)
    sigma = part[0].sigma_t
    torch.testing.assert_close(late(x0, n, part, 0.35), (1 - sigma) * x0 + sigma * n)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"use_dynamic_shifting": True}, "use_dynamic_shifting"),
        ({"use_karras_sigmas": True}, "use_karras_sigmas"),
        ({"shift_terminal": 0.1}, "shift_terminal"),
        ({"_class_name": "DDIMScheduler"}, "DDIMScheduler"),
        ({"shift": 0}, "positive"),
    ],
)
def test_schedules_that_are_not_walked_are_refused(config, says):
    with pytest.raises(ModelError, match=says):
        FlowSchedule.from_config(config)


def test_what_a_flow_has_not_is_refused():
    assert FlowSchedule.from_config({"shift": 3.0}) == FLOW
    with pytest.raises(KnobError, match="add no noise"):
        FLOW.steps(5, eta=1.0)
    for steps in (0, 1001):
        with pytest.raises(RequestError, match="1 to 1000"):
            FLOW.steps(steps)
    with pytest.raises(RequestError, match="start"):
        FLOW.steps(5, start=1.5)


def test_a_flows_walk_reaches_the_data():
    """The exact flow takes noise x to m + s x."""
    x = drawn()
    errors = [(run(walk(x, FLOW.steps(n), plain(A)), velocity) - (0.7 + SPREAD * x)).abs().max() for n in (50, 500)]
    assert errors[0] < 0.1
    assert errors[1] < errors[0] / 5


def test_inversions_of_the_path_work_on_velocities():
    x0 = 0.7 + drawn() * SPREAD
    source = run(direct(x0, FLOW.steps(20), Told(A, NULL)), velocity)
    assert torch.equal(source.record.x[-1], x0)
    for step, v, before, after in zip(FLOW.steps(20), source.record.eps, source.record.x, source.record.x[1:], strict=False):
        torch.testing.assert_close(step.next(before, v), after)
    errors = [(run(ddim(x0, FLOW.steps(n), Told(A, NULL)), velocity).record.x[-1] - x0).norm() for n in (20, 200)]
    assert errors[1] < errors[0] / 5


@pytest.mark.parametrize("count", [1, 7, 50])
def test_ddim_is_euler_seen_as_a_flow(count):
    """The identity behind `as_flow`: the same guides at the same latents make the same walk, up and down."""
    schedule = Schedule.stable_diffusion(set_alpha_to_one=True)
    steps, guide = schedule.steps(count), classifier_free(A, NULL, 3.0)
    flow, z = as_flow(steps), drawn()
    scale = math.sqrt(steps[0].a_t) + math.sqrt(1 - steps[0].a_t)
    own, view = Record(), Record()
    run(walk(z, steps, guide, own), eps)
    run(walk(z / scale, flow, Velocity(guide), view), eps)
    for step, x, z_t in zip(steps, view.x, own.x, strict=False):
        torch.testing.assert_close(x * (math.sqrt(step.a_t) + math.sqrt(1 - step.a_t)), z_t, rtol=0, atol=1e-9)
    torch.testing.assert_close(view.x[-1], own.x[-1], rtol=0, atol=1e-9)
    up = run(invert(own.x[-1], steps, plain(A)), eps)
    torch.testing.assert_close(run(invert(own.x[-1], flow, Velocity(plain(A))), eps) * scale, up, rtol=0, atol=1e-9)
    for ours, theirs in zip(flow, steps, strict=True):
        assert ours.a_t == pytest.approx(theirs.a_t, rel=1e-9)


def test_a_flows_own_steps_and_guides_are_seen_as_they_are():
    steps = FLOW.steps(5)
    assert as_flow(steps) == steps
    x = drawn()
    assert torch.equal(run(walk(x, steps, Velocity(plain(A))), velocity), run(walk(x, steps, plain(A)), velocity))


@BOTH
def test_flowedit_moves_a_gaussian_picture_by_the_difference_of_the_means(model, schedule):
    """For equal spreads v_tar - v_src does not depend on the noise; from sigma = 1 on it is the difference of the means."""
    x0, steps = 0.7 + drawn() * SPREAD, as_flow(schedule.steps(400))
    edit = Difference(x0, Velocity(plain(A)), Velocity(plain(B)), fresh())
    for n_max in (400, 280):
        sigma = steps[400 - n_max].sigma_t
        reached = 1 - (1 - sigma) * SPREAD / math.sqrt((1 - sigma) ** 2 * SPREAD**2 + sigma**2)
        end = run(flowedit(edit, steps[400 - n_max :]), model)
        torch.testing.assert_close(end, x0 + reached * (-0.4 - 0.7), rtol=0, atol=0.01)
    assert reached < 0.95


@BOTH
def test_flowedit_from_a_caption_to_itself_changes_nothing(model, schedule):
    x0, guide = drawn(), Velocity(classifier_free(A, NULL, 5.0))
    end = run(flowedit(Difference(x0, guide, guide, fresh()), as_flow(schedule.steps(10))), model)
    torch.testing.assert_close(end, x0, rtol=0, atol=1e-9)


@BOTH
def test_flowedit_whose_steps_all_sample_is_a_late_start(model, schedule):
    x0, guide = drawn(), Velocity(plain(B))
    steps = as_flow(schedule.steps(10))[4:]
    end = run(flowedit(Difference(x0, Velocity(plain(A)), guide, fresh(5)), steps, n_min=6), model)
    start = steps[0].noised(x0, drawn(5))
    torch.testing.assert_close(end, run(walk(start, steps, guide), model), rtol=0, atol=1e-9)


def test_flowedits_last_steps_sample_from_the_noised_edit():
    x0, steps = drawn(), as_flow(FLOW.steps(10))
    draw = fresh(5)
    end = run(flowedit(Difference(x0, plain(A), plain(B), fresh(5)), steps, n_min=4), velocity)
    so_far = run(flowedit(Difference(x0, plain(A), plain(B), draw), steps[:6]), velocity)
    z = so_far + steps[6].noised(x0, draw()) - x0
    torch.testing.assert_close(end, run(walk(z, steps[6:], plain(B)), velocity), rtol=0, atol=1e-9)


@pytest.mark.parametrize("n_min", [0, 4, 8])
def test_flowedit_keeps_to_a_mask(n_min):
    x0, steps = drawn(), as_flow(FLOW.steps(10))[2:]
    mask = torch.zeros(8, 8, dtype=torch.float64)
    mask[2:5, 3:7] = 1
    masked, free = (
        run(flowedit(Difference(x0, plain(A), plain(B), fresh(), mask_HW=m), steps, n_min), velocity) for m in (mask, None)
    )
    torch.testing.assert_close(masked * (1 - mask), x0 * (1 - mask), rtol=0, atol=1e-9)
    torch.testing.assert_close(masked * mask, free * mask)  # this denoiser looks at one place at a time


def test_flowedit_averages_its_noises_and_asks_about_them_at_once():
    def crooked(x, t, tokens, pooled, image):
        return velocity(x, t, tokens, pooled, image) + x**3

    x0, [step] = drawn(), as_flow(FLOW.steps(3))[1:2]
    draw = fresh()
    singles = [run(Difference(x0, plain(A), plain(B), draw).noise(x0 + 1, step), crooked) for _ in range(4)]
    engine = Engine(crooked)
    together = engine.result(engine.add(Difference(x0, plain(A), plain(B), fresh(), n_avg=4).noise(x0 + 1, step)))
    torch.testing.assert_close(together, sum(singles) / 4)
    assert (engine.counters.rows, engine.counters.calls) == (8, 1)
    assert not torch.allclose(singles[0], singles[1])


def inversion_of(x0, flow, gamma, guide=None):
    return Drawn(guide or Velocity(plain(A)), drawn(9), 1.0, [gamma] * len(flow))


@BOTH
def test_rf_inversion_without_control_is_inversion_and_sampling(model, schedule):
    x0, flow = drawn(), as_flow(schedule.steps(12))
    up = run(invert(x0, flow, inversion_of(x0, flow, 0.0)), model)
    assert torch.equal(up, run(invert(x0, flow, Velocity(plain(A))), model))
    down = run(walk(up, flow, Drawn(Velocity(plain(B)), x0, 0.0, [0.0] * 12)), model)
    assert torch.equal(down, run(walk(up, flow, Velocity(plain(B))), model))


@BOTH
def test_rf_inversion_that_is_held_to_the_end_returns_the_picture(model, schedule):
    x0, flow = drawn(), as_flow(schedule.steps(12))
    engine = Engine(model)
    down = Drawn(Velocity(plain(B)), x0, 0.0, etas(1.0, 0, 12, 12))
    end = engine.result(engine.add(walk(drawn(3), flow, down)))
    torch.testing.assert_close(end, x0, rtol=0, atol=1e-9)
    assert engine.counters.rows == 0
    # However it is steered before: the last step alone decides.
    end = run(walk(drawn(3), flow, Drawn(Velocity(plain(B)), x0, 0.0, [0.3] * 11 + [1.0])), model)
    torch.testing.assert_close(end, x0, rtol=0, atol=1e-9)


def test_rf_inversion_drawn_wholly_to_noise_ends_there():
    x0, flow = drawn(), as_flow(FLOW.steps(12))
    up = run(invert(x0, flow, inversion_of(x0, flow, 1.0)), velocity)
    torch.testing.assert_close(up, drawn(9), rtol=0, atol=1e-9)


def test_rf_inversions_control_is_the_papers():
    """dY/dsigma = v + gamma ((y1 - Y) / (1 - sigma) - v), from the data to noise; the same towards x0 on the way back."""
    x0, flow = drawn(), as_flow(FLOW.steps(6))
    y, sigmas = x0.clone(), [step.sigma_t for step in flow] + [0.0]
    for n in range(6, 0, -1):
        v = velocity(y, torch.tensor([flow[n - 1].t]), A.tokens_BLD, None, None)
        y = y + (sigmas[n - 1] - sigmas[n]) * (v + 0.4 * ((drawn(9) - y) / (1 - sigmas[n]) - v))
    torch.testing.assert_close(run(invert(x0, flow, inversion_of(x0, flow, 0.4)), velocity), y)
    x, weights = y, etas(0.9, 1, 4, 6, decay=1.0)
    for n, eta in enumerate(weights):
        v = velocity(x, torch.tensor([flow[n].t]), B.tokens_BLD, None, None)
        x = x + (sigmas[n] - sigmas[n + 1]) * (-v + eta * ((x0 - x) / sigmas[n] + v))
    torch.testing.assert_close(run(walk(y, flow, Drawn(plain(B), x0, 0.0, weights)), velocity), x)


def test_the_hold_fades_inside_its_window():
    assert etas(0.9, 1, 4, 6) == [0, 0.9, 0.9, 0.9, 0, 0]
    assert etas(0.9, 1, 4, 6, decay=1.0) == pytest.approx([0, 0.9, 0.6, 0.3, 0, 0])
    assert etas(0.9, 2, 2, 3) == [0, 0, 0]


def test_rf_inversion_keeps_to_a_mask():
    x0, flow = drawn(), as_flow(FLOW.steps(8))
    mask = torch.zeros(8, 8, dtype=torch.float64)
    mask[2:5, 3:7] = 1
    ends = [run(walk(drawn(3), flow, Drawn(plain(B), x0, 0.0, etas(0.9, 0, 3, 8), m)), velocity) for m in (mask, None)]
    torch.testing.assert_close(ends[0] * (1 - mask), x0 * (1 - mask), rtol=0, atol=1e-9)
    torch.testing.assert_close(ends[0] * mask, ends[1] * mask)


def test_steps_keep_their_indices():
    steps = FLOW.steps(5)
    assert [step.i for step in steps] == [0, 1, 2, 3, 4]
    assert all(isinstance(step, FlowStep) for step in steps)
    assert [step.i for step in as_flow(DIFFUSION.steps(5))[2:]] == [2, 3, 4]
