"""Null-text inversion: for each step, the "no words" against which guidance leads back to the picture."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from paintover.path.guidance import plain
from paintover.path.inversion.told import Told
from paintover.path.predict import Condition, Predict
from paintover.path.report import Report
from paintover.path.schedule import Step
from paintover.path.source import Inverting, Source
from paintover.path.walk import Record, invert, walk

# A null condition, the noise that the denoiser sees under it, and the loss.
Found = tuple[Condition, Tensor, float]


def null_text(x0_BCHW: Tensor, steps: Sequence[Step], told: Told) -> Inverting:
    """Null-text optimisation (Mokady et al. 2023): up to x_T without guidance, then down with it, step by step.

    Each step's null is optimised until the guided step from where the walk stands comes to the latents z* that the way up
    went through: min over null of mean |next(x, e(null) + g [e(c) - e(null)]) - z*|^2, from the last step's null on, by
    Adam, at most `inner` steps, until below `tolerance`. In float32, whatever the denoiser's own type.

    Each step asks for e(c) once. The noise under the null that is kept is known when it is chosen, so that nothing is asked
    again to walk on; and where the loss is small enough at once, no gradient is taken. 3 S evaluations at least,
    (3 + inner) S at most. Guidance 1 holds against nothing, and there is nothing to optimise.
    """
    up = Record()
    yield from invert(x0_BCHW, steps, plain(told.source), up)
    wanted, g = up.x[::-1], told.guidance
    if g == 1:
        record = Record()
        yield from walk(wanted[0], steps, plain(told.source), record)
        return Source(record)
    x, null, hard = wanted[0], _own(told.null), True
    record, nulls = Record(x=[x]), []
    for n, step in enumerate(steps):
        asked = [Predict(x, step.t, _asking(null) if hard else null)]
        if g != 0:
            asked.append(Predict(x, step.t, told.source))
        e_null, *rest = yield asked
        e_c = rest[0] if rest else torch.zeros_like(x)
        found = yield from _optimised(x, e_c, step, wanted[n + 1], (asked[0].condition, e_null), told, len(steps))
        null, hard = found[0], found[0] is not asked[0].condition
        eps = _guided(found[1], e_c, g)
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
    """Adam's learning rate at step i: 1e-2 (1 - i / 100), which would reach 0 at step 100; longer walks (1 - i / 2 S)."""
    return 1e-2 * (1 - i / (100 if steps <= 100 else 2 * steps))


def _optimised(
    x: Tensor, e_c: Tensor, step: Step, wanted: Tensor, first: tuple[Condition, Tensor], told: Told, steps: int
) -> Generator[Sequence[Predict], Sequence[Tensor], Found]:
    """The best null that was met on the way down from `first`, which was asked already."""
    asked, e_null = first
    best: Found | None = None
    adam: torch.optim.Adam | None = None
    for k in range(told.inner + 1):
        if k:
            [e_null] = yield [Predict(x, step.t, asked if k < told.inner else _own(asked))]
        with torch.enable_grad():
            # The sum of squares, not their mean: its gradient does not vanish in half precision.
            error = (step.next(x, _guided(e_null, e_c, told.guidance)) - wanted).square().sum()
        loss = error.item() / x.numel()
        if best is None or loss < best[2]:
            best = (asked if not asked.tokens_BLD.requires_grad else _own(asked)), e_null.detach(), loss
        if loss < tolerance(step.i) or k == told.inner:
            break
        if not error.requires_grad:  # it was not expected to be needed
            asked = _asking(asked)
            [e_null] = yield [Predict(x, step.t, asked)]
            with torch.enable_grad():
                error = (step.next(x, _guided(e_null, e_c, told.guidance)) - wanted).square().sum()
        leaves = [leaf for leaf in (asked.tokens_BLD, asked.pooled_BD) if leaf is not None]
        adam = adam or torch.optim.Adam(leaves, lr=rate(step.i, steps))
        for leaf, slope in zip(leaves, torch.autograd.grad(error, leaves, allow_unused=True), strict=True):
            leaf.grad = slope
        adam.step()
    assert best is not None
    return best


def _guided(e_null: Tensor, e_c: Tensor, g: float) -> Tensor:
    return torch.add(e_null * (1 - g), e_c, alpha=g)


def _own(null: Condition) -> Condition:
    """A copy in float32 that records no gradients."""
    pooled = None if null.pooled_BD is None else null.pooled_BD.detach().float().clone()
    return Condition(null.tokens_BLD.detach().float().clone(), pooled)


def _asking(null: Condition) -> Condition:
    """A copy whose gradients are recorded."""
    copy = _own(null)
    pooled = None if copy.pooled_BD is None else copy.pooled_BD.requires_grad_()
    return Condition(copy.tokens_BLD.requires_grad_(), pooled)
