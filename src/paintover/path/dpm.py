"""sde-dpm-solver++ of second order: DDPM steps that are told an extrapolated noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from paintover.path.guidance import Guide
from paintover.path.predict import Path
from paintover.path.schedule import Schedule, Step


def dpm_steps(schedule: Schedule, steps: int, skip: float = 0.0) -> list[Step]:
    """The last `steps` of int(steps * (1 + skip)) steps, laid as multistep DPM solvers lay them, each a DDPM step.

    One timestep more is laid and the cleanest left out: the last step goes from there to clean latents at once. ("trailing"
    reaches no timestep that near to clean ones, and is laid as it is.) More `skip` starts from less noise.

    sde-dpm-solver++ of first order (Lu et al. 2022, appendix B), (sigma_s / sigma_t) e^-h x + alpha_s (1 - e^-2h) x0 +
    sigma_s sqrt(1 - e^-2h) z, *is* the DDPM step: with e^-h = alpha_t sigma_s / (alpha_s sigma_t), the variance of its
    noise is (1 - a_s) / (1 - a_t) (1 - a_t / a_s). So `Step` walks it; what the second order adds is `SecondOrder`.
    """
    total = int(steps * (1 + skip))
    times = schedule.timesteps(total) if schedule.spacing == "trailing" else schedule.timesteps(total + 1)[:-1]
    times = times[total - steps :]
    levels = [schedule.alphas_cumprod[t] for t in times] + [schedule.final_alpha]
    onward = [*times[1:], -1]
    return [
        Step(i, t, onward[i], a_t, a_s, math.sqrt((1 - a_s) / (1 - a_t) * max(1 - a_t / a_s, 0.0)), schedule.threshold)
        for i, (t, (a_t, a_s)) in enumerate(zip(times, pairwise(levels), strict=True))
    ]


@dataclass(slots=True, eq=False)
class SecondOrder:
    """Another guide's noise, extrapolated from the clean latents x0 that it means at this step and at the one before.

    Solver: x0' = x0 + (x0 - x0_before) / 2r, r = h_before / h with h the step in lambda = log(alpha / sigma); the noise that
    means x0' is eps - e^lambda (x0' - x0), so that the step itself need remember nothing. The first step of a walk is of
    first order, and so is one to latents without any noise, where h is infinite. For one walk: it remembers where it is.
    """

    guide: Guide
    _before: tuple[Step, Tensor] | None = None

    def noise(self, x_BCHW: Tensor, step: Step) -> Path:
        eps = yield from self.guide.noise(x_BCHW, step)
        return self.extrapolate(x_BCHW, eps, step)

    def extrapolate(self, x_BCHW: Tensor, eps_BCHW: Tensor, step: Step) -> Tensor:
        """eps' of the step, which follows the one that was extrapolated last."""
        before, x0 = self._before, step.x0(x_BCHW, eps_BCHW)
        self._before = step, x0
        if before is None or before[0].i != step.i - 1 or step.a_s == 1:
            return eps_BCHW
        last, x0_before = before
        share = (_lambda(step.a_s) - _lambda(step.a_t)) / (_lambda(step.a_t) - _lambda(last.a_t)) / 2
        return eps_BCHW - math.exp(_lambda(step.a_t)) * share * (x0 - x0_before)


def _lambda(a: float) -> float:
    """log(alpha / sigma) at alpha_bar a."""
    return math.log(a / (1 - a)) / 2
