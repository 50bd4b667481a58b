"""Walks over the closed-form noise of Gaussian data: eps = sqrt(1 - a) (x - sqrt(a) m) / (a s^2 + 1 - a)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from paintover.engine.engine import run
from paintover.path.guidance import classifier_free, plain
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
