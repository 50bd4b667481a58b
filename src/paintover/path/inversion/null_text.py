"""Null-text inversion: for each step, the "no words" against which guidance leads back to the picture."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paintover.path.guidance import plain
from paintover.path.inversion.told import Told
from paintover.path.predict import Condition, Predict
from paintover.path.report import Report
from paintover.path.schedule import Step
from paintover.path.source import Inverting, Source
from paintover.path.walk import Record, invert, walk


def null_text(x0_BCHW: Tensor, steps: Sequence[Step], told: Told) -> Inverting:
    """Null-text optimisation (Mokady et al. 2023): up to x_T without guidance, then down with it, step by step.

    Each step's null is optimised until the guided step from where the walk stands comes to the latents z* that the way up
    went through: min over null of mean |next(x, e(null) + g [e(c) - e(null)]) - z*|^2, from the last step's null on, by
    Adam, at most `inner` steps, until below `tolerance`. In float32, whatever the denoiser's own type.

    Each step asks for e(c) once. The noise under the null that is kept is known when it is chosen, so that nothing is asked
    again to walk on; and where the loss is small enough at once, no gradient is taken. 3 S evaluations at least,
    (3 + inner) S at most and a few. Guidance 1 holds against nothing, and there is nothing to optimise.
    """
    up = Record()
    yield from invert(x0_BCHW, steps, plain(told.source), up)
    wanted, g = up.x[::-1], told.guidance
    if g == 1:
        record = Record()
        yield from walk(wanted[0], steps, plain(told.source), record)
        return Source(record)
    x, null, pace = wanted[0], _own(told.null), Pace()
    record, nulls = Record(x=[x]), []
    for n, step in enumerate(steps):
        # Where the last step's null was good enough as it was, this one's will be too, most likely: asked without gradients.
        asked = [Predict(x, step.t, _leaf(null) if pace.needed else null)]
        if g != 0:
            asked.append(Predict(x, step.t, told.source))
        e_null, *rest = yield asked
        mean = step.next(x, rest[0] * g) if rest else step.next(x, torch.zeros_like(x))
        problem = _Problem(x, step, mean, wanted[n + 1], 1 - g)
        null, e_null = yield from _optimised(problem, asked[0].condition, e_null, told.inner, len(steps), pace)
        eps = torch.add(e_null * (1 - g), rest[0], alpha=g) if rest else e_null
        before, x = x, step.next(x, eps)
        nulls.append(null)
        record.eps.append(eps)
        record.x.append(x)
        yield Report(step, n, len(steps), before, eps, x)
    return Source(record, nulls=tuple(nulls))


def tolerance(i: int) -> float:
    """The loss that is small enough at step i, as in the released code: 1e-5 + 2e-5 i."""
    return 1e-5 + 2e-5 * i


def rate(i: int, steps: int) -> float:
    """Adam's learning rate at step i, before `Pace`: it falls as the released code's, (1 - i / 100), or (1 - i / 2 S) beyond
    100 steps, where that would reach 0. It starts at 1.5e-2, not 1e-2: on the built-in model nearer at 4 steps than that at 10.
    """
    return 1.5e-2 * (1 - i / (100 if steps <= 100 else 2 * steps))


@dataclass(slots=True)
class Pace:
    """Learns how far to go, at no cost. The error is nearly linear in the null, so when a step has led from error r to s,
    the best length for it would have been <r, r - s> / |r - s|^2 of what it was: the next goes more nearly that far.

    needed: whether the last null had to be optimised at all.
    """

    factor: float = 1.0
    needed: bool = True

    def learn(self, before: Tensor, now: Tensor) -> None:
        change = before - now
        best = float((before * change).sum() / change.square().sum().clamp_min(1e-30))
        self.factor = min(max(self.factor * min(max(best, 0.5), 2.0) ** 0.7, 0.05), 50.0)


@dataclass(frozen=True, slots=True)
class _Problem:
    """next(x, eps) for eps = weight e(null) + g e(c) is to come to `wanted`; `mean` is what it is without e(null)."""

    x: Tensor
    step: Step
    mean: Tensor
    wanted: Tensor
    weight: float

    def error(self, e_null: Tensor) -> Tensor:
        return self.mean - self.wanted + self.step.next(torch.zeros_like(e_null), e_null * self.weight)


def _optimised(
    problem: _Problem, asked: Condition, e_null: Tensor, inner: int, steps: int, pace: Pace
) -> Generator[Sequence[Predict], Sequence[Tensor], tuple[Condition, Tensor]]:
    """The best null that was met on the way down from `asked`, which gave e_null; and what it gives."""
    x, step = problem.x, problem.step
    found, best, adam, before = (asked, e_null), float("inf"), None, None
    for k in range(inner + 1):
        with torch.enable_grad():
            error = problem.error(e_null)
            # The sum of squares, not their mean: its gradient does not vanish in half precision.
            total = error.square().sum()
        loss = total.item() / x.numel()
        if loss < best:
            best, found = loss, (_own(asked), e_null.detach())
        if loss < tolerance(step.i) or k == inner:
            break
        if not total.requires_grad:  # it was not expected to be needed
            asked = _leaf(asked)
            [e_null] = yield [Predict(x, step.t, asked)]
            with torch.enable_grad():
                total = problem.error(e_null).square().sum()
        leaves = [leaf for leaf in (asked.tokens_BLD, asked.pooled_BD) if leaf is not None]
        adam = adam or torch.optim.Adam(leaves)
        if before is not None:
            pace.learn(before, error.detach())
        before = error.detach()
        for leaf, slope in zip(leaves, torch.autograd.grad(total, leaves, allow_unused=True), strict=True):
            leaf.grad = slope
        adam.param_groups[0]["lr"] = pace.factor * rate(step.i, steps)
        adam.step()
        [e_null] = yield [Predict(x, step.t, asked if k + 1 < inner else _own(asked))]
    pace.needed = adam is not None
    return found


def _own(null: Condition) -> Condition:
    """A copy in float32 that records no gradients."""
    pooled = None if null.pooled_BD is None else null.pooled_BD.detach().float().clone()
    return Condition(null.tokens_BLD.detach().float().clone(), pooled)


def _leaf(null: Condition) -> Condition:
    """A copy whose gradients are recorded."""
    copy = _own(null)
    pooled = None if copy.pooled_BD is None else copy.pooled_BD.requires_grad_()
    return Condition(copy.tokens_BLD.requires_grad_(), pooled)
