"""MDP on the predicted noise: an edit's path that borrows the source path's noise inside a window of steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paintover.errors import KnobError
from paintover.path.guidance import Guide
from paintover.path.predict import Path
from paintover.path.schedule import Step
from paintover.path.walk import Record, walk

SCHEDULES = ("constant", "linear", "cosine", "exponential")


def scaled(t_max: int, length: int, steps: int) -> tuple[int, int]:
    """A window told for 50 steps, as the MDP paper tells it, in steps of a walk of `steps`: (t_max, length).

    Raises KnobError if it does not lie within 50 steps, or would vanish in so short a walk.
    """
    _check(t_max, length, 50)
    in_steps = round(t_max * steps / 50), round(length * steps / 50)
    if length and not in_steps[1]:
        enough = 25 // length + 1
        raise KnobError(f"a window of {length} of 50 steps is less than one of {steps} steps; ask for {enough} steps or more")
    return in_steps


def weights(steps: int, t_max: int, length: int, schedule: str | Sequence[float] = "constant", k: float = 1.0) -> list[float]:
    """How much of the source's noise each of `steps` steps takes: w in [0, 1], zero outside the window.

    t_max counts the steps that remain when the window opens: it covers i in [steps - t_max, steps - t_max + length).
    Within it, at j = 0 .. length - 1 of n = length: "constant" k; "linear" 1 - j/(n-1); "cosine" cos(pi/2 j/(n-1));
    "exponential" exp(-5 j/(n-1)); or a list of `length` weights of one's own. One step alone takes j/(n-1) = 0.
    Raises KnobError if the window does not fit (nothing is clamped), or the schedule is unknown or of another length.
    """
    _check(t_max, length, steps)
    u = [j / max(length - 1, 1) for j in range(length)]
    if not isinstance(schedule, str):
        if len(schedule) != length:
            raise KnobError(f"{len(schedule)} weights were given for a window of {length} steps; give one for each step")
        inside = [float(w) for w in schedule]
    elif schedule == "constant":
        inside = [k] * length
    elif schedule == "linear":
        inside = [1 - v for v in u]
    elif schedule == "cosine":
        inside = [math.cos(math.pi / 2 * v) for v in u]
    elif schedule == "exponential":
        inside = [math.exp(-5 * v) for v in u]
    else:
        raise KnobError(f"schedule is {schedule!r}; expected {', '.join(SCHEDULES)} or a list of weights")
    return [0.0] * (steps - t_max) + inside + [0.0] * (t_max - length)


@dataclass(frozen=True, slots=True, eq=False)
class Borrowed:
    """The guide of MDP-eps_t: eps_i = (1 - w_i) eps^B_i + w_i amplify eps^A_i, eps^A recorded, eps^B of `target`.

    Where w_i = 1 the target's noise has no part in the sum and is not evaluated.
    """

    target: Guide
    source: Record
    weights: Sequence[float]
    amplify: float = 1.0

    def noise(self, x_BCHW: Tensor, step: Step) -> Path:
        w = self.weights[step.i]
        if w == 1:
            return self.source.eps[step.i] * self.amplify
        eps = yield from self.target.noise(x_BCHW, step)
        return torch.add((1 - w) * eps, self.source.eps[step.i], alpha=w * self.amplify) if w else eps


def mdp_noise(
    x_BCHW: Tensor, steps: Sequence[Step], target: Guide, source: Record, weights: Sequence[float], amplify: float = 1.0
) -> Path:
    """MDP-eps_t (Wang et al. 2023): walks after `target`, borrowing the noise of the walk that `source` records.

    `source` recorded a walk over the same steps from the same x_BCHW. Raises KnobError if the record or the weights are of
    another length than the steps.
    """
    if not len(steps) == len(source.eps) == len(weights):
        raise KnobError(
            f"{len(steps)} steps meet a source record of {len(source.eps)} and {len(weights)} weights; give as many of each"
        )
    return walk(x_BCHW, steps, Borrowed(target, source, weights, amplify))


def _check(t_max: int, length: int, steps: int) -> None:
    if not 0 <= t_max <= steps:
        raise KnobError(f"the window opens with t_max {t_max} steps left of {steps}; expected 0 to {steps}")
    if not 0 <= length <= t_max:
        raise KnobError(f"the window of t_m {length} steps opens when t_max {t_max} are left; expected t_m 0 to {t_max}")
