"""Inversions over the closed-form noise of Gaussian data (as in test_walk), and over a small network."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from paintover.conditions.prompt import prompts
from paintover.editors.two_branch import TwoBranchKnobs
from paintover.engine.engine import Engine, run
from paintover.errors import Cancelled
from paintover.models.bundle import Bundle, load
from paintover.path.flow import FlowSchedule
from paintover.path.guidance import PerStep, classifier_free, plain
from paintover.path.inversion import INVERSIONS, Told
from paintover.path.inversion.edit_friendly import through
from paintover.path.inversion.null_text import rate, tolerance
from paintover.path.predict import Condition
from paintover.path.report import Report
from paintover.path.schedule import Schedule
from paintover.path.source import Source
from paintover.path.start import noise
from paintover.path.walk import walk

SCHEDULE = Schedule.stable_diffusion()
ABAR = torch.tensor(SCHEDULE.alphas_cumprod, dtype=torch.float64)
SHAPE = (1, 4, 8, 8)
SPREAD = 0.5
EVERY = pytest.mark.parametrize("name", INVERSIONS)


def centred(mean: float) -> Condition:
    return Condition(torch.full((1, 1, 1), mean, dtype=torch.float64))


def gaussian(x: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor | None, image: Tensor | None) -> Tensor:
    a = ABAR[t].view(-1, 1, 1, 1)
    return (1 - a).sqrt() * (x - a.sqrt() * tokens[:, :1, :1, None]) / (a * SPREAD**2 + 1 - a)


TOLD = Told(centred(0.7), centred(0.0), guidance=7.5, seed=3)
X0 = 0.7 + SPREAD * noise(0, SHAPE).double()


def inverted(name: str, count: int = 20, told: Told = TOLD, denoiser=gaussian, x0: Tensor = X0, schedule: Schedule = SCHEDULE):
    """The source, the steps, and the engine that counted."""
    steps, engine = schedule.steps(count, eta=INVERSIONS[name].eta), Engine(denoiser)
    return engine.result(engine.add(INVERSIONS[name].invert(x0, steps, told))), steps, engine


def free(source: Source, steps, told: Told, guidance: float, denoiser=gaussian) -> Tensor:
    """The walk from x_T, told the caption, with what the inversion found."""
    nulls = source.nulls or (told.null,)
    guides = [classifier_free(told.source, nulls[min(step.i, len(nulls) - 1)], guidance) for step in steps]
    added = source.added
    after = None if added is None else lambda step, x: x + added[step.i]
    return run(walk(source.record.x[0], steps, PerStep(guides), after=after), denoiser)


def apart(a: Tensor, b: Tensor) -> float:
    return (a - b).square().mean().sqrt().item()


@pytest.fixture(scope="module")
def bundle(tiny_bundle) -> Bundle:
    return load(tiny_bundle, "cpu")


@pytest.fixture(scope="module")
def told(bundle) -> Told:
    return Told(*prompts(bundle.text, ["a cow", ""]), guidance=7.5, seed=1, inner=3)


@pytest.fixture(scope="module")
def picture(bundle) -> Tensor:
    return bundle.codec.encode(noise(5, (1, 3, 64, 64)).tanh())


def test_the_knob_offers_what_there_is():
    assert set(get_args(TwoBranchKnobs.model_fields["inversion"].annotation)) == set(INVERSIONS)
    assert {knob for inversion in INVERSIONS.values() for knob in inversion.knobs} <= set(TwoBranchKnobs.model_fields)


@EVERY
@pytest.mark.parametrize("count", [2, 7])
def test_the_record_leads_from_latents_to_latents(name, count):
    source, steps, _ = inverted(name, count)
    assert (len(source.record.eps), len(source.record.x)) == (count, count + 1)
    for step, eps, before, after in zip(steps, source.record.eps, source.record.x, source.record.x[1:], strict=False):
        added = 0 if source.added is None else source.added[step.i]
        torch.testing.assert_close(step.next(before, eps) + added, after, rtol=0, atol=1e-12)


@EVERY
def test_what_is_kept_in_the_cache_is_the_same_source(name):
    source, *_ = inverted(name, 4)
    again = Source.of(source.tensors())
    for one, other in ((source.record.x, again.record.x), (source.record.eps, again.record.eps)):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert (source.nulls is None, source.added is None) == (again.nulls is None, again.added is None)


@pytest.mark.parametrize("name", ["direct", "fixed-point", "edit-friendly"])
def test_exact_inversions_end_at_the_picture(name, bundle, told, picture):
    schedule = Schedule.from_config(bundle.scheduler_config)
    source, *_ = inverted(name, 6, told, bundle.denoiser, picture, schedule)
    assert (source.record.x[-1] - picture).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["null-text", "edit-friendly"])
@pytest.mark.parametrize("guidance", [0.0, 1.0, 7.5])
def test_the_guided_walk_is_the_source_branch(name, guidance, bundle, picture):
    """An edit whose caption is the source prompt is the source."""
    schedule = Schedule.from_config(bundle.scheduler_config)
    told = Told(*prompts(bundle.text, ["a cow", ""]), guidance=guidance, seed=1, inner=2)
    source, steps, _ = inverted(name, 5, told, bundle.denoiser, picture, schedule)
    end = free(source, steps, told, guidance, bundle.denoiser)
    torch.testing.assert_close(end, source.record.x[-1], rtol=0, atol=1e-4)


def test_negative_prompt_makes_guidance_harmless():
    source, steps, engine = inverted("negative-prompt")
    assert engine.counters.rows == 2 * len(steps)
    for guidance in (1.0, 7.5, -3.0):
        torch.testing.assert_close(free(source, steps, TOLD, guidance), source.record.x[-1])


def test_guidance_carries_ddim_off_and_null_text_brings_it_back():
    ddim, steps, _ = inverted("ddim", 50)
    found, _, _ = inverted("null-text", 50)
    lost, unguided = apart(free(ddim, steps, TOLD, 7.5), X0), apart(ddim.record.x[-1], X0)
    kept = apart(free(found, steps, TOLD, 7.5), X0)
    assert lost > 10 * unguided
    assert kept < 1.2 * unguided


def test_null_text_takes_no_gradient_where_there_is_nothing_to_mend():
    """Held against its own caption, the guided walk is the unguided one: 3 S evaluations, one that might have needed it."""
    told = Told(TOLD.source, Condition(TOLD.source.tokens_BLD.clone()), guidance=7.5)
    *_, engine = inverted("null-text", 200, told, x0=torch.full(SHAPE, 0.7, dtype=torch.float64))
    assert (engine.counters.rows, engine.counters.gradients) == (600, 1)


def test_null_text_at_guidance_1_optimises_nothing():
    source, steps, engine = inverted("null-text", told=Told(TOLD.source, TOLD.null, guidance=1.0))
    assert (engine.counters.rows, engine.counters.gradients, source.nulls) == (2 * len(steps), 0, None)


def test_null_text_asks_no_more_than_it_says(bundle, told, picture):
    schedule = Schedule.from_config(bundle.scheduler_config)
    source, steps, engine = inverted("null-text", 4, told, bundle.denoiser, picture, schedule)
    assert engine.counters.rows <= (3 + told.inner) * len(steps)
    assert engine.counters.gradients <= told.inner * len(steps)
    assert all(null.tokens_BLD.dtype == torch.float32 and not null.tokens_BLD.requires_grad for null in source.nulls)
    assert all(null.pooled_BD is not None for null in source.nulls)  # this denoiser takes one, so it is optimised too
    assert not torch.equal(source.nulls[-1].pooled_BD, told.null.pooled_BD)


def test_null_text_is_float32_beside_a_bfloat16_network(tiny_bundle):
    small = load(tiny_bundle, "cpu", torch.bfloat16)
    told = Told(*prompts(small.text, ["a cow", ""]), guidance=7.5, inner=2)
    source, *_ = inverted("null-text", 3, told, small.denoiser, noise(0, (1, 192, 8, 8)), Schedule.stable_diffusion())
    assert source.nulls[0].tokens_BLD.dtype == torch.float32
    assert source.record.x[-1].isfinite().all()


def test_the_published_tolerance_and_rate():
    assert tolerance(10) == pytest.approx(1e-5 + 2e-4)
    for steps in (10, 50, 100):
        assert rate(5, steps) / rate(0, steps) == pytest.approx(0.95)
    assert min(rate(i, 250) for i in range(250)) > 0


@pytest.mark.parametrize("name", ["null-text", "fixed-point", "edit-friendly"])
def test_reports_and_cancelling(name):
    steps = SCHEDULE.steps(6, eta=INVERSIONS[name].eta)
    reports: list[Report] = []
    run(INVERSIONS[name].invert(X0, steps, TOLD), gaussian, on_step=reports.append)
    assert [report.i for report in reports] == [*range(6)] * (len(reports) // 6)
    few: list[Report] = []
    with pytest.raises(Cancelled):
        run(INVERSIONS[name].invert(X0, steps, TOLD), gaussian, on_step=few.append, cancelled=lambda: len(few) >= 2)
    assert len(few) == 2


def test_fixed_points_lead_back():
    """A free, unguided walk from x_T comes back to the picture, which it does not from DDIM inversion's x_T."""
    source, steps, engine = inverted("fixed-point", 20)
    there = apart(free(source, steps, TOLD, 1.0), X0)
    assert there < 0.1 * apart(inverted("ddim", 20)[0].record.x[-1], X0)
    assert engine.counters.rows < (TOLD.iterations + 1) * len(steps)  # it stopped where it had converged


@pytest.mark.parametrize("mean", [0.7, 4.0])
def test_fixed_points_of_a_flow_are_those_of_its_closed_form(mean):
    """A velocity is as strong as the picture, however far that is from noise."""

    def slope(sigma: float) -> float:
        return (sigma - (1 - sigma) * SPREAD**2) / ((1 - sigma) ** 2 * SPREAD**2 + sigma**2)

    def velocity(x: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor | None, image: Tensor | None) -> Tensor:
        sigma = t.double().item() / 1000
        return slope(sigma) * (x - (1 - sigma) * tokens[:, :1, :1, None]) - tokens[:, :1, :1, None]

    steps = FlowSchedule(shift=1.0).steps(20)
    x0 = mean + SPREAD * noise(0, SHAPE).double()
    told = Told(centred(mean), centred(0.0), iterations=50)
    x = x0
    for step in reversed(steps):  # x_t = x_s + d (k (x_t - (1 - sigma) m) - m), solved for x_t
        d, k = step.sigma_t - step.sigma_s, slope(step.t / 1000)
        x = (x - d * (k * (1 - step.t / 1000) + 1) * mean) / (1 - d * k)
    source = run(INVERSIONS["fixed-point"].invert(x0, steps, told), velocity)
    torch.testing.assert_close(source.record.x[0], x, rtol=0, atol=0.03)
    assert apart(run(walk(source.record.x[0], steps, plain(told.source)), velocity), x0) < 0.01


@pytest.mark.parametrize("schedule", [SCHEDULE, FlowSchedule()], ids=["diffusion", "flow"])
def test_fixed_points_do_not_run_away_where_there_are_none(schedule):
    """A network that takes all that it sees, but for the mean, for noise: no x_t leads to a picture with grain."""

    def noisy(x: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor | None, image: Tensor | None) -> Tensor:
        if schedule is SCHEDULE:
            a = ABAR[t.long()].view(-1, 1, 1, 1)
            return (x - a.sqrt() * 0.7) / (1 - a).sqrt()
        sigma = (t.double() / 1000).view(-1, 1, 1, 1)
        return (x - (1 - sigma) * 0.7) / sigma - 0.7

    steps = schedule.steps(20)
    source = run(INVERSIONS["fixed-point"].invert(X0, steps, TOLD), noisy)
    assert source.record.x[0].square().mean().sqrt() < 2
    for step, told, x, after in zip(steps, source.record.eps, source.record.x, source.record.x[1:], strict=False):
        torch.testing.assert_close(step.next(x, told), after)


def test_fixed_point_with_one_correction_counts_two_evaluations_a_step():
    _, steps, engine = inverted("fixed-point", told=Told(TOLD.source, TOLD.null, iterations=1))
    assert engine.counters.rows == 2 * len(steps)


def test_edit_friendly_is_the_papers_algorithm():
    """Transcribed: independent x_t; z_t = (x_(t-1) - mu_t(x_t)) / sigma_t, with DDPM's posterior variance."""
    guide = classifier_free(TOLD.source, TOLD.null, 3.5)
    steps = SCHEDULE.steps(20, eta=1.0)
    source = run(through(X0, steps, guide, seed=3), gaussian)
    drawn = torch.randn((20, *SHAPE[1:]), generator=torch.Generator().manual_seed(3)).double()
    x = [ABAR[step.t].sqrt() * X0 + (1 - ABAR[step.t]).sqrt() * drawn[n : n + 1] for n, step in enumerate(steps)]
    for n, step in enumerate(steps[:-1]):
        t = torch.tensor([step.t])
        null = gaussian(x[n], t, TOLD.null.tokens_BLD, None, None)
        eps = null + 3.5 * (gaussian(x[n], t, TOLD.source.tokens_BLD, None, None) - null)
        a, before = ABAR[step.t], ABAR[steps[n + 1].t]
        variance = (1 - before) / (1 - a) * (1 - a / before)
        x0 = (x[n] - (1 - a).sqrt() * eps) / a.sqrt()
        mean = before.sqrt() * x0 + (1 - before - variance).sqrt() * eps
        z = (x[n + 1] - mean) / variance.sqrt()
        torch.testing.assert_close(source.added[n] / step.sigma, z, rtol=1e-5, atol=1e-5)
    assert len({t.sum().item() for t in source.record.x}) == 21


def test_edit_friendly_draws_from_its_seed():
    one, again, other = (inverted("edit-friendly", 5, Told(TOLD.source, TOLD.null, seed=seed))[0] for seed in (1, 1, 2))
    assert torch.equal(one.record.x[0], again.record.x[0])
    assert not torch.equal(one.record.x[0], other.record.x[0])


def test_direct_replays_what_a_free_walk_loses():
    source, steps, engine = inverted("direct")
    assert torch.equal(source.record.x[-1], X0)
    assert engine.counters.rows == len(steps)
    assert apart(run(walk(source.record.x[0], steps, plain(TOLD.source)), gaussian), X0) > 0.01
