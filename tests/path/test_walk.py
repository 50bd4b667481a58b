"""Walks over the closed-form noise of Gaussian data: eps = sqrt(1 - a) (x - sqrt(a) m) / (a s^2 + 1 - a)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from paintover.engine.engine import run
from paintover.errors import KnobError
from paintover.path.guidance import classifier_free, plain
from paintover.path.mdp import mdp_noise, scaled, weights
from paintover.path.predict import Condition
from paintover.path.report import Report
from paintover.path.schedule import Schedule
from paintover.path.start import late, noise
from paintover.path.walk import Record, invert, walk

SCHEDULE = Schedule.stable_diffusion()
ABAR = torch.tensor(SCHEDULE.alphas_cumprod, dtype=torch.float64)
SHAPE = (1, 4, 8, 8)
SPREAD = 0.5


def centred(mean: float) -> Condition:
    return Condition(torch.full((1, 1, 1), mean, dtype=torch.float64))


A, B, NULL = centred(0.7), centred(-0.4), centred(0.0)


def gaussian(x: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor | None, image: Tensor | None) -> Tensor:
    a = ABAR[t].view(-1, 1, 1, 1)
    return (1 - a).sqrt() * (x - a.sqrt() * tokens[:, :1, :1, None]) / (a * SPREAD**2 + 1 - a)


def drawn(seed: int = 0) -> Tensor:
    return noise(seed, SHAPE).double()


def test_inversion_then_sampling_closes_as_steps_grow():
    """Identity 23."""
    x0 = drawn() * SPREAD
    errors = []
    for count in (20, 50, 100, 500):
        steps = SCHEDULE.steps(count)
        z = run(invert(x0, steps, plain(NULL)), gaussian)
        assert 0.8 < z.std() < 1.2  # it arrived at noise
        errors.append(((run(walk(z, steps, plain(NULL)), gaussian) - x0).norm() / x0.norm()).item())
    assert errors == pytest.approx([0.098, 0.037, 0.018, 0.004], rel=0.15)


def test_a_walk_reaches_the_data():
    """The exact flow takes noise x_T to s x_T + m, up to what is left of the data at the first step."""
    x = drawn()
    end = run(walk(x, SCHEDULE.steps(500), plain(NULL)), gaussian)
    assert (end / x).mean().item() == pytest.approx(SPREAD, rel=0.02)


def test_the_record_holds_the_walk():
    steps, record, x = SCHEDULE.steps(7), Record(), drawn()
    end = run(walk(x, steps, classifier_free(A, NULL, 3.0), record), gaussian)
    assert (len(record.eps), len(record.x)) == (7, 8)
    assert record.x[0] is x
    assert record.x[-1] is end
    for step, eps, before, after in zip(steps, record.eps, record.x, record.x[1:], strict=False):
        assert torch.equal(step.next(before, eps), after)


def test_a_walk_reports_each_step():
    reports: list[Report] = []
    end = run(walk(drawn(), SCHEDULE.steps(5), plain(A)), gaussian, on_step=reports.append)
    assert [(r.i, r.total, len(r)) for r in reports] == [(i, 5, 0) for i in range(5)]
    assert torch.equal(reports[-1].x_BCHW, end)
    # What each step foresees is Gaussian data too; the last foresees nearly what it makes.
    torch.testing.assert_close(reports[-1].x0(), end, rtol=0, atol=0.1)
    up: list[Report] = []
    run(invert(end, SCHEDULE.steps(5), plain(A)), gaussian, on_step=up.append)
    assert [(r.i, r.total) for r in up] == [(i, 5) for i in range(5)]


def test_late_start():
    """Identity 19: at 0 the picture, at 1 full sampling, between them SDEdit's statistics."""
    x0, eps = torch.full((1, 4, 64, 64), 2.0), noise(0, (1, 4, 64, 64))
    assert late(x0, eps, SCHEDULE.steps(50, 0.0), 0.0) is x0
    assert run(walk(x0, SCHEDULE.steps(50, 0.0), plain(A)), gaussian) is x0
    full = SCHEDULE.steps(50, 1.0)
    assert late(x0, eps, full, 1.0) is eps
    assert full == SCHEDULE.steps(50)
    steps = SCHEDULE.steps(50, 0.6)
    start = late(x0, eps, steps, 0.6)
    a = SCHEDULE.alphas_cumprod[30 * 20 - 19]
    assert steps[0].t == 581
    assert start.mean().item() == pytest.approx(2 * math.sqrt(a), abs=0.03)
    assert start.var().item() == pytest.approx(1 - a, rel=0.03)


def test_noise_is_its_seeds_own():
    assert torch.equal(noise(3, SHAPE), torch.randn(SHAPE, generator=torch.Generator().manual_seed(3)))
    assert not torch.equal(noise(3, SHAPE), noise(4, SHAPE))


@pytest.fixture
def source() -> Record:
    record = Record()
    run(walk(drawn(), SCHEDULE.steps(50), classifier_free(A, NULL, 7.5), record), gaussian)
    return record


def edited(source: Record, w: list[float], amplify: float = 1.0, told: Condition = B) -> Tensor:
    steps = SCHEDULE.steps(50)
    return run(mdp_noise(drawn(), steps, classifier_free(told, NULL, 7.5), source, w, amplify), gaussian)


def test_mdp_identities(source):
    """Identities 1 to 3: w = 1 is the source, w = 0 or no window the plain edit, one condition the source for any w."""
    plain_b = run(walk(drawn(), SCHEDULE.steps(50), classifier_free(B, NULL, 7.5)), gaussian)
    assert not torch.allclose(plain_b, source.x[-1], atol=0.1)
    assert torch.equal(edited(source, [1.0] * 50), source.x[-1])
    assert torch.equal(edited(source, [0.0] * 50), plain_b)
    assert torch.equal(edited(source, weights(50, 47, 0)), plain_b)
    torch.testing.assert_close(edited(source, weights(50, 47, 26, "cosine"), told=A), source.x[-1])


def test_mdp_is_the_papers_formula(source):
    w = weights(50, 47, 26, "linear", 1.0)
    x = drawn()
    for step in SCHEDULE.steps(50):
        t = torch.tensor([step.t])
        null = gaussian(x, t, NULL.tokens_BLD, None, None)
        eps = null + 7.5 * (gaussian(x, t, B.tokens_BLD, None, None) - null)
        x = step.next(x, (1 - w[step.i]) * eps + w[step.i] * 1.2 * source.eps[step.i])
    torch.testing.assert_close(edited(source, w, amplify=1.2), x)


def test_mdp_asks_for_nothing_where_the_source_decides(source):
    rows = 0

    def counting(x: Tensor, *told: Tensor) -> Tensor:
        nonlocal rows
        rows += len(x)
        return gaussian(x, *told)

    run(mdp_noise(drawn(), SCHEDULE.steps(50), classifier_free(B, NULL, 7.5), source, weights(50, 47, 26)), counting)
    assert rows == 2 * (50 - 26)


def test_window_indices():
    w = weights(50, t_max=47, length=26)
    assert [i for i, weight in enumerate(w) if weight] == list(range(3, 29))
    assert len(w) == 50


@pytest.mark.parametrize(("name", "last"), [("constant", 1.0), ("linear", 0.0), ("cosine", 0.0), ("exponential", math.exp(-5))])
@pytest.mark.parametrize("length", [1, 2, 26, 40])
def test_schedules(name, last, length):
    """Identity 4: lengths, ends, falling."""
    inside = weights(60, 40, length, name)[20 : 20 + length]
    assert inside[0] == 1
    assert inside[-1] == pytest.approx(1 if length == 1 else last, abs=1e-12)
    assert inside == sorted(inside, reverse=True)


def test_own_weights_and_constants():
    assert weights(5, 4, 3, [0.5, -1, 2]) == [0, 0.5, -1, 2, 0]
    assert weights(4, 4, 4, "constant", 0.8) == [0.8] * 4
    with pytest.raises(KnobError, match="2 weights"):
        weights(5, 4, 3, [1, 1])
    with pytest.raises(KnobError, match="sine"):
        weights(5, 4, 3, "sine")


@pytest.mark.parametrize(("t_max", "length"), [(51, 1), (-1, 0), (10, 11), (10, -1)])
def test_windows_that_do_not_fit_are_refused(t_max, length):
    with pytest.raises(KnobError, match="window"):
        weights(50, t_max, length)
    with pytest.raises(KnobError, match="window"):
        scaled(t_max, length, 50)


@pytest.mark.parametrize("steps", [1, 4, 20, 50, 100, 333])
def test_a_window_scales_with_the_steps(steps):
    t_max, length = scaled(47, 26, steps)
    assert len(weights(steps, t_max, length)) == steps
    assert (t_max, length) == (round(0.94 * steps), round(0.52 * steps))


def test_a_window_does_not_vanish_unsaid():
    assert scaled(47, 0, 4) == (4, 0)
    with pytest.raises(KnobError, match="ask for 9 steps or more"):
        scaled(47, 3, 8)
    assert scaled(47, 3, 9)[1] == 1


def test_a_record_of_another_length_is_refused(source):
    with pytest.raises(KnobError, match="20 steps meet a source record of 50"):
        mdp_noise(drawn(), SCHEDULE.steps(20), plain(B), source, [0.0] * 20)
