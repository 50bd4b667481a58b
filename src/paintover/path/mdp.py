"""MDP: an edit's path that borrows from the source's inside a window of steps. Four things can be borrowed.

With w_i the source's share at step i, E(x, c) guidance towards c, A the source and B what is wanted, each of
MDP (Wang et al. 2023) is one line here:

    noise      eps = (1 - w) E(x, c_B) + w eps_A         eps_A: recorded on the source's walk      `Borrowed`
    condition  eps = E(x, c), c = (1 - w) c_B + w c_A                                              `told_both`
    guidance   eps = (1 - w) E(x, c_B) + w E(x, c_A)     both asked at the edit's own latents      `asked_both`
    latent     x <- (1 - w) next(x, E(x, c_B)) + w x_A   x_A: the source's latents after the step  `Returned`, `latents`
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from paintover.errors import KnobError
from paintover.path.guidance import Guide, Guided, PerStep, blended
from paintover.path.predict import Condition, Path
from paintover.path.schedule import Step
from paintover.path.walk import After, Record

SCHEDULES = ("constant", "linear", "cosine", "exponential")

Toward = Callable[[Condition, int], Guided]  # guidance towards a condition, as the edit follows it at step i


def weights(steps: int, t_max: int, length: int, schedule: str | Sequence[float] = "constant", k: float = 1.0) -> list[float]:
    """The source's share w at each of `steps` steps: zero outside the window, k times the schedule inside.

    t_max counts the steps that remain when the window opens: it covers i in [steps - t_max, steps - t_max + length).
    Within it, at j = 0 .. length - 1 of n = length: "constant" 1; "linear" 1 - j/(n-1); "cosine" cos(pi/2 j/(n-1));
    "exponential" exp(-5 j/(n-1)); or a list of `length` weights of one's own. One step alone takes j/(n-1) = 0.
    Raises KnobError if the window does not fit (nothing is clamped), or the schedule is unknown or of another length.
    """
    _check(t_max, length, steps)
    u = [j / max(length - 1, 1) for j in range(length)]
    if not isinstance(schedule, str):
        if len(schedule) != length:
            raise KnobError(
                f"{len(schedule)} weights were given for a window of {length} steps (of {steps} in all); give one for each step"
            )
        inside = [float(w) for w in schedule]
    elif schedule == "constant":
        inside = [1.0] * length
    elif schedule == "linear":
        inside = [1 - v for v in u]
    elif schedule == "cosine":
        inside = [math.sin(math.pi / 2 * (1 - v)) for v in u]  # the cosine, exactly 0 where it ends
    elif schedule == "exponential":
        inside = [math.exp(-5 * v) for v in u]
    else:
        raise KnobError(f"schedule is {schedule!r}; expected {', '.join(SCHEDULES)} or a list of weights")
    return [0.0] * (steps - t_max) + [k * w for w in inside] + [0.0] * (t_max - length)


@dataclass(frozen=True, slots=True, eq=False)
class Borrowed:
    """MDP-eps_t: eps = (1 - w) eps_B + w amplify eps_A, eps_A recorded on the source's walk, eps_B of `wanted`.

    Where w = 1 what is wanted has no part in the sum and is not asked about.
    """

    wanted: Guide
    source: Record
    weights: Sequence[float]
    amplify: float = 1.0

    def noise(self, x_BCHW: Tensor, step: Step) -> Path:
        w, eps_A = self.weights[step.i], self.source.eps[step.i] * self.amplify
        if w == 1:
            return eps_A
        eps_B = yield from self.wanted.noise(x_BCHW, step)
        return torch.lerp(eps_B, eps_A, w) if w else eps_B


def told_both(c_B: Condition, c_A: Condition, weights: Sequence[float], toward: Toward, amplify: float = 1.0) -> PerStep:
    """MDP-c: guidance towards c = (1 - w) c_B + w amplify c_A. Steps of the same w are told the same object."""
    mixed = {w: _mixed(c_B, c_A, w, amplify) for w in set(weights)}
    return PerStep([toward(mixed[w], i) for i, w in enumerate(weights)])


def asked_both(c_B: Condition, c_A: Condition, weights: Sequence[float], toward: Toward, amplify: float = 1.0) -> PerStep:
    """MDP-beta: (1 - w) E(c_B) + w amplify E(c_A), as one sum: what both are held against is asked once, so that a step
    takes three evaluations where the published code takes four, and two where w is 0 or 1.
    """
    guides = []
    for i, w in enumerate(weights):
        share = Fraction(w)
        guides.append(blended((toward(c_B, i), 1 - share), (toward(c_A, i), share * Fraction(amplify))))
    return PerStep(guides)


@dataclass(frozen=True, slots=True, eq=False)
class Returned:
    """The guide of MDP-x_t: `wanted`, but for the steps up to the last one with w = 1, which ask about nothing.

    There `latents` puts the source's own in the place of whatever was reached before: nothing before has an effect.
    """

    wanted: Guide
    source: Record
    weights: Sequence[float]

    def noise(self, x_BCHW: Tensor, step: Step) -> Path:
        if 1.0 in self.weights[step.i :]:
            return self.source.eps[step.i]
        return (yield from self.wanted.noise(x_BCHW, step))


def latents(source: Record, weights: Sequence[float], then: After, amplify: float = 1.0) -> After:
    """MDP-x_t, after each step: (1 - w) x + w amplify x_A. `then`: what else is done to x (not to x_A: it has been)."""

    def after(step: Step, x_BCHW: Tensor) -> Tensor:
        w, x_A = weights[step.i], source.x[step.i + 1] * amplify
        return x_A if w == 1 else torch.lerp(then(step, x_BCHW), x_A, w) if w else then(step, x_BCHW)

    return after


def _mixed(c_B: Condition, c_A: Condition, w: float, amplify: float) -> Condition:
    """Token by token: every text encoder pads (or cuts) all texts to one length. Of equal conditions it is c_B itself."""
    if not w:
        return c_B
    pooled = None
    if c_B.pooled_BD is not None and c_A.pooled_BD is not None:
        pooled = torch.lerp(c_B.pooled_BD, c_A.pooled_BD * amplify, w)
    return Condition(torch.lerp(c_B.tokens_BLD, c_A.tokens_BLD * amplify, w), pooled, c_B.image_BCHW)


def _check(t_max: int, length: int, steps: int) -> None:
    if not 0 <= t_max <= steps:
        raise KnobError(f"the window opens with t_max {t_max} steps left of {steps}; expected 0 to {steps}")
    if not 0 <= length <= t_max:
        raise KnobError(f"the window of t_m {length} steps opens when t_max {t_max} are left; expected t_m 0 to {t_max}")
