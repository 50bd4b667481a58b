"""MDP's four algorithms over the closed-form noise of Gaussian data: identities 1 to 5, and the papers' formulas as loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from paintover.editors.mdp_window import _NAMED, scaled
from paintover.engine.engine import Engine, run
from paintover.errors import KnobError
from paintover.path.guidance import Guided, classifier_free
from paintover.path.mdp import SCHEDULES, Borrowed, Returned, asked_both, latents, told_both, weights
from paintover.path.predict import Condition, Path
from paintover.path.schedule import Schedule, Step
from paintover.path.start import noise
from paintover.path.walk import Record, walk

SCHEDULE = Schedule.stable_diffusion()
ABAR = torch.tensor(SCHEDULE.alphas_cumprod, dtype=torch.float64)
SHAPE = (1, 4, 8, 8)
SPREAD = 0.5
S, G = 50, 7.5
STEPS = SCHEDULE.steps(S)


def about(mean: float) -> Condition:
    """Words about data of that mean; the pooled vector moves it, too."""
    return Condition(torch.full((1, 1, 1), mean, dtype=torch.float64), torch.full((1, 1), mean / 2, dtype=torch.float64))


A, B, NULL = about(0.7), about(-0.4), about(0.0)
X_T = noise(0, SHAPE).double()


def gaussian(x: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor, image: Tensor | None) -> Tensor:
    """eps = sqrt(1 - a) (x - sqrt(a) m) / (a s^2 + 1 - a), m what it is told; bent a little, so that it is not linear in m."""
    a = ABAR[t].view(-1, 1, 1, 1)
    mean = tokens[:, :1, :1, None] + (pooled[:, :1, None, None] * x).tanh()
    return (1 - a).sqrt() * (x - a.sqrt() * mean) / (a * SPREAD**2 + 1 - a)


def E(x: Tensor, c: Condition, step: Step, g: float = G) -> Tensor:
    """Guidance towards c, by its formula."""
    null, told = (gaussian(x, torch.tensor([step.t]), told.tokens_BLD, told.pooled_BD, None) for told in (NULL, c))
    return null + g * (told - null)


def toward(c: Condition, i: int) -> Guided:
    return classifier_free(c, NULL, G)


@pytest.fixture(scope="module")
def source() -> Record:
    record = Record()
    run(walk(X_T, STEPS, classifier_free(A, NULL, G), record), gaussian)
    return record


def path(name: str, source: Record, w: list[float], c_B: Condition = B, amplify: float = 1.0, toward=toward) -> Path:
    wanted = toward(c_B, 0)
    if name == "noise":
        return walk(X_T, STEPS, Borrowed(wanted, source, w, amplify))
    if name == "latent":
        return walk(X_T, STEPS, Returned(wanted, source, w), after=latents(source, w, lambda step, x: x, amplify))
    return walk(X_T, STEPS, {"condition": told_both, "guidance": asked_both}[name](c_B, A, w, toward, amplify))


def edited(name: str, source: Record, w: list[float], **told) -> Tensor:
    return run(path(name, source, w, **told), gaussian)


def counted(name: str, source: Record, w: list[float], **told) -> int:
    engine = Engine(gaussian)
    engine.result(engine.add(path(name, source, w, **told)))
    return engine.counters.rows


EVERY = pytest.mark.parametrize("name", ["noise", "condition", "latent", "guidance"])


@pytest.fixture(scope="module")
def plain_B() -> Tensor:
    return run(walk(X_T, STEPS, classifier_free(B, NULL, G)), gaussian)


@EVERY
def test_all_of_the_source_is_the_source_and_nothing_of_it_the_plain_edit(name, source, plain_B):
    """Identities 1 to 3."""
    assert not torch.allclose(plain_B, source.x[-1], atol=0.1)
    torch.testing.assert_close(edited(name, source, [1.0] * S), source.x[-1], rtol=1e-9, atol=1e-9)
    assert torch.equal(edited(name, source, [0.0] * S), plain_B)
    assert torch.equal(edited(name, source, weights(S, 47, 0)), plain_B)


@EVERY
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_words_that_say_what_the_source_says_lead_to_it(name, schedule, source):
    """Identity 3."""
    again = edited(name, source, weights(S, 47, 26, schedule, 0.7), c_B=about(0.7))
    torch.testing.assert_close(again, source.x[-1], rtol=1e-9, atol=1e-9)


@EVERY
@pytest.mark.parametrize("amplify", [1.0, 1.3])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_is_the_papers_formula(name, schedule, amplify, source):
    w, x = weights(S, 47, 26, schedule), X_T
    for step in STEPS:
        i = step.i
        if name == "noise":
            x = step.next(x, (1 - w[i]) * E(x, B, step) + w[i] * amplify * source.eps[i])
        elif name == "condition":
            parts = ((B.tokens_BLD, A.tokens_BLD), (B.pooled_BD, A.pooled_BD))
            x = step.next(x, E(x, Condition(*((1 - w[i]) * b + w[i] * amplify * a for b, a in parts)), step))
        elif name == "guidance":
            x = step.next(x, (1 - w[i]) * E(x, B, step) + w[i] * amplify * E(x, A, step))
        else:
            x = (1 - w[i]) * step.next(x, E(x, B, step)) + w[i] * amplify * source.x[i + 1]
    torch.testing.assert_close(edited(name, source, w, amplify=amplify), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "schedule", "rows"),
    [
        ("noise", "constant", 2 * (50 - 26)),
        ("noise", "linear", 2 * (50 - 1)),  # the first step of the window takes all from the source
        ("condition", "constant", 2 * 50),
        ("condition", "linear", 2 * 50),
        ("latent", "constant", 2 * 21),  # nothing up to the end of the window
        ("latent", "linear", 2 * 46),
        ("guidance", "constant", 2 * 50),
        ("guidance", "linear", 3 * 24 + 2 * 26),  # where the share is neither 0 nor 1; the published code takes 4 there
    ],
)
def test_what_it_costs(name, schedule, rows, source):
    assert counted(name, source, weights(S, 47, 26, schedule)) == rows


@EVERY
def test_without_guidance(name, source):
    """Identity 5, and nothing is asked of the null condition."""
    unguided = Record()
    run(walk(X_T, STEPS, classifier_free(A, NULL, 1.0), unguided), gaussian)

    def told(c: Condition, i: int) -> Guided:
        return classifier_free(c, NULL, 1.0)

    whole = edited(name, unguided, [1.0] * S, toward=told)
    torch.testing.assert_close(whole, unguided.x[-1], rtol=1e-9, atol=1e-9)
    asked = {"noise": 24, "condition": 50, "latent": 21, "guidance": 50}
    assert counted(name, unguided, weights(S, 47, 26), toward=told) == asked[name]


def test_nothing_but_an_amplified_nothing_asks_nothing(source):
    """The whole window given to a source that is multiplied by zero: no noise."""
    assert counted("guidance", source, [1.0] * S, amplify=0.0) == 0


def test_conditions_of_one_share_are_one_object():
    """So that what the denoiser makes of them is kept from step to step."""
    guides = told_both(B, A, weights(S, 47, 26), toward).guides
    assert len({guide.terms[0][0] for guide in guides}) == 2


def test_guidance_at_each_step_has_its_own_null(source):
    """Null-text inversion finds another null for each step."""
    nulls = [about(0.01 * i) for i in range(S)]
    for guides in (told_both(B, A, [0.5] * S, lambda c, i: classifier_free(c, nulls[i], G)),
                   asked_both(B, A, [0.5] * S, lambda c, i: classifier_free(c, nulls[i], G))):  # fmt: skip
        assert all(nulls[i] in dict(guide.terms) for i, guide in enumerate(guides.guides))


def test_noise_that_belongs_to_the_steps_is_added_to_the_edit_and_not_twice_to_the_source(source):
    added = [noise(i, SHAPE).double() for i in range(S)]
    noisy, x = Record(), X_T
    noisy.x.append(x)
    for step in STEPS:
        noisy.eps.append(E(x, A, step))
        x = step.next(x, noisy.eps[-1]) + added[step.i]
        noisy.x.append(x)
    for w in (weights(S, 50, 49), [0.5] * S):
        guide = Returned(toward(A, 0), noisy, w)
        after = latents(noisy, w, lambda step, x: x + added[step.i])
        torch.testing.assert_close(run(walk(X_T, STEPS, guide, after=after), gaussian), x, rtol=1e-9, atol=1e-9)


def test_the_last_step_of_mdp_latent_forgets_all_others(source):
    last_only = [0.0] * (S - 1) + [1.0]
    assert torch.equal(edited("latent", source, last_only), source.x[-1])
    assert counted("latent", source, last_only) == 0
    for name in ("noise", "condition", "guidance"):
        assert not torch.allclose(edited(name, source, last_only), source.x[-1], atol=0.1)


@pytest.mark.parametrize(("steps", "first", "last"), [(50, 3, 28), (20, 1, 10), (100, 6, 57)])
def test_window_indices(steps, first, last):
    """t_max 47, T_M 26 of 50 steps are the steps 3 to 28; the last step is never among them."""
    w = weights(steps, *scaled(47, 26, steps))
    assert [i for i, weight in enumerate(w) if weight] == list(range(first, last + 1))
    assert len(w) == steps


def test_the_default_window_leaves_the_last_step_out():
    assert all(weights(steps, *scaled(47, 26, steps))[-1] == 0 for steps in range(2, 201))


@pytest.mark.parametrize(("name", "last"), [("constant", 1.0), ("linear", 0.0), ("cosine", 0.0), ("exponential", math.exp(-5))])
@pytest.mark.parametrize("length", [1, 2, 26, 40])
def test_schedules(name, last, length):
    """Identity 4: lengths, ends, falling."""
    inside = weights(60, 40, length, name)[20 : 20 + length]
    assert inside[0] == 1
    assert inside[-1] == (1 if length == 1 else last)
    assert inside == sorted(inside, reverse=True)
    assert weights(60, 40, length, name, 0.25) == pytest.approx([0.0] * 20 + [w / 4 for w in inside] + [0.0] * (40 - length))
    if length > 2 and name != "constant":
        middle = {"linear": 1 - 1 / (length - 1), "cosine": math.cos(math.pi / 2 / (length - 1))}
        assert inside[1] == pytest.approx(middle.get(name, math.exp(-5 / (length - 1))))


def test_own_weights_and_constants():
    assert weights(5, 4, 3, [0.5, -1, 2]) == [0, 0.5, -1, 2, 0]
    assert weights(4, 4, 4, "constant", 0.8) == [0.8] * 4
    with pytest.raises(KnobError, match="2 weights were given for a window of 3 steps"):
        weights(5, 4, 3, [1, 1])
    with pytest.raises(KnobError, match="sine"):
        weights(5, 4, 3, "sine")


def test_the_knobs_name_the_schedules_there_are():
    assert _NAMED == SCHEDULES


@pytest.mark.parametrize(("t_max", "length"), [(51, 1), (-1, 0), (10, 11), (10, -1)])
def test_windows_that_do_not_fit_are_refused(t_max, length):
    with pytest.raises(KnobError, match="window"):
        weights(50, t_max, length)
    with pytest.raises(KnobError, match="window"):
        scaled(t_max, length, 50)


@pytest.mark.parametrize(
    ("told", "steps", "walked"),
    [
        ((47, 26), 2, (2, 1)),
        ((47, 26), 4, (4, 2)),
        ((47, 26), 10, (9, 5)),
        ((47, 26), 25, (24, 13)),  # 23.5: a half goes up
        ((47, 26), 50, (47, 26)),
        ((47, 26), 333, (313, 173)),
        ((26, 25), 20, (10, 9)),  # 10.4 and 10 are both 10, but the last step is not the window's
        ((26, 26), 20, (10, 10)),
        ((50, 49), 20, (20, 19)),
        ((50, 50), 20, (20, 20)),
        ((5, 5), 10, (1, 1)),
        ((47, 0), 4, (4, 0)),
        ((1, 0), 4, (0, 0)),
    ],
)
def test_a_window_scales_with_the_steps(told, steps, walked):
    assert scaled(*told, steps) == walked


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 37, 50, 64, 100, 200])
def test_every_window_ends_where_it_is_told_to(steps):
    """Within a step of where 50 steps have it, before the last step unless it is told to reach that; or it is refused."""
    for t_max in range(51):
        for t_m in range(t_max + 1):
            try:
                opens, length = scaled(t_max, t_m, steps)
            except KnobError as error:
                enough = int(str(error).split("ask for ")[1].split()[0])
                assert steps < enough <= 50
                assert scaled(t_max, t_m, enough)[1] > 0
                continue
            assert len(weights(steps, opens, length)) == steps
            assert (length > 0) == (t_m > 0)
            assert abs(opens - t_max * steps / 50) <= 0.5
            assert abs(length - t_m * steps / 50) < 1.5
            assert abs(opens - length - (t_max - t_m) * steps / 50) <= 1
            if length:
                assert (weights(steps, opens, length)[-1] > 0) == (t_m == t_max)


def test_a_window_does_not_vanish_unsaid():
    assert scaled(47, 0, 4) == (4, 0)
    with pytest.raises(KnobError, match="ask for 9 steps or more"):
        scaled(47, 3, 8)
    assert scaled(47, 3, 9)[1] == 1
