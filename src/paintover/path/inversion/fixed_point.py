"""Fixed-point inversion: each step up solves the equation of the step down, instead of guessing its noise one step off."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paintover.path.inversion.told import Told
from paintover.path.predict import Predict
from paintover.path.report import Report
from paintover.path.schedule import Step
from paintover.path.source import Inverting, Source
from paintover.path.walk import Record

STRONGEST = 1.1  # rms of the noise that a prediction means: noise has 1
CONVERGED = 1e-3  # rms of a correction, in units of the latents' own standard deviation of about 1


def fixed_point(x0_BCHW: Tensor, steps: Sequence[Step], told: Told) -> Inverting:
    """The x_t from which the walk down really comes to x_s: the fixed point of x_t = up(x_s, e(x_t, t)).

    DDIM inversion asks e(x_s, t), and stops there; this goes on from its answer (AIDI, Pan et al. 2023; ReNoise, Garibi et
    al. 2024), averaging the predictions of the corrections as ReNoise does, which keeps an iteration that circles its fixed
    point from going astray. It stops early once a correction moves the latents by less than CONVERGED, and where they begin
    to move more and more. Noise stronger than noise can be is taken at noise's strength, for where no x_t leads to x_s (the
    network smooths what x_s has of grain) the iteration would otherwise amplify x without end. (A flow predicts a velocity:
    of it the noise alone is weakened, not what it says of the picture.)

    The noise that leads from x_t to x_s is the one that led up, exactly, so nothing is walked again (as in `direct`); where
    it converged, it is also what the model itself predicts at x_t, so that a free walk from x_T comes back to the picture.
    2 S to (iterations + 1) S evaluations.
    """
    x, record = x0_BCHW, Record(x=[x0_BCHW])
    for n, step in enumerate(reversed(steps)):
        up = step.inverse()
        [eps] = yield [Predict(x, step.t, told.source)]
        eps = _no_stronger(eps, x, step)
        there, total, moved = up.next(x, eps), torch.zeros_like(eps), float("inf")
        for k in range(told.iterations):
            [answer] = yield [Predict(there, step.t, told.source)]
            total = total + answer
            mean = _no_stronger(total / (k + 1), there, step)
            corrected = up.next(x, mean)
            before, moved = moved, float((corrected - there).square().mean().sqrt())
            if moved > before:
                break
            there, eps = corrected, mean
            if moved < CONVERGED:
                break
        before_BCHW, x = x, there
        record.x.append(x)
        record.eps.append(eps)
        yield Report(up, n, len(steps), before_BCHW, eps, x)
    return Source(Record(eps=record.eps[::-1], x=record.x[::-1]))


def _no_stronger(told_BCHW: Tensor, x_BCHW: Tensor, step: Step) -> Tensor:
    """What the denoiser told at x, with the noise that it means at most as strong as noise."""
    noise_BCHW = step.noise(x_BCHW, told_BCHW)
    excess = 1 - 1 / (noise_BCHW.square().mean().sqrt() / STRONGEST).clamp_min(1.0)
    return told_BCHW - excess * noise_BCHW
