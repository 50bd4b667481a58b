"""Edit-friendly DDPM inversion: noise maps that a stochastic walk needs to pass exactly through the noised picture."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from paintover.path.beside import beside
from paintover.path.guidance import Guide, classifier_free
from paintover.path.inversion.told import Told
from paintover.path.report import Report
from paintover.path.schedule import Step
from paintover.path.source import Inverting, Source
from paintover.path.start import noise
from paintover.path.walk import Record

_AT_ONCE = 8  # steps whose noises are asked together: between two such rounds it can be cancelled


def edit_friendly(x0_BCHW: Tensor, steps: Sequence[Step], told: Told) -> Inverting:
    """`through` the noised picture, for a source branch that is guided as the edit is. S or 2 S evaluations."""
    return through(x0_BCHW, steps, classifier_free(told.source, told.null, told.guidance), told.seed)


def through(x0_BCHW: Tensor, steps: Sequence[Step], guide: Guide, seed: int) -> Inverting:
    """Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2024), over steps with eta = 1 (sigma_i > 0).

    x_t = sqrt(a_t) x0 + sqrt(1 - a_t) n_t, with an n_t of its own for every t, and sigma_i z_i = x_(i+1) - mu_i(x_i), where
    mu_i is the step's mean under `guide`. So the walk that adds sigma_i z_i ends at x0, exactly, and an edit that adds them
    keeps what the maps hold of the picture: far more than the noise of DDIM inversion does.

    The last step's remainder is added too, which the released code drops (its sigma is about 0).
    """
    shape, device = (len(steps), *x0_BCHW.shape[1:]), x0_BCHW.device
    drawn = noise(seed, shape, device).to(x0_BCHW.dtype).split(1)
    x = [step.noised(x0_BCHW, n) for step, n in zip(steps, drawn, strict=True)]
    record, added = Record(x=[*x, x0_BCHW]), []
    for k in range(0, len(steps), _AT_ONCE):
        together = steps[k : k + _AT_ONCE]
        noises = yield from beside([guide.noise(x[k + j], step) for j, step in enumerate(together)])
        for j, (step, eps) in enumerate(zip(together, noises, strict=True), k):
            mean = step.next(x[j], eps)
            added.append(record.x[j + 1] - mean)
            record.eps.append(eps)
            yield Report(step, j, len(steps), x[j], eps, record.x[j + 1])
    return Source(record, added=tuple(added))
