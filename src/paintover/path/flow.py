"""Rectified flows: their schedule and Euler steps, and a diffusion model seen as one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paintover.errors import KnobError, ModelError, RequestError
from paintover.path.guidance import Guide
from paintover.path.predict import Path
from paintover.path.schedule import Step

_REFUSED = (
    "use_dynamic_shifting",
    "invert_sigmas",
    "shift_terminal",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "stochastic_sampling",
)


@dataclass(frozen=True, slots=True)
class FlowStep(Step):
    """One Euler step of a flow, whose latents are x_sigma = (1 - sigma) x0 + sigma noise: from sigma_t down to sigma_s.

    A walk treats it as it does a DDIM step; what the denoiser answers, v = noise - x0, stands where that one has eps.

    own: the step of a diffusion model that this one is another view of (see `as_flow`); None: of a flow model.
    a_t, a_s: the share of signal variance, so that a flow's step and a diffusion's compare.
    """

    sigma_t: float = 1.0
    sigma_s: float = 0.0
    own: Step | None = None

    @staticmethod
    def between(i: int, t: float, s: float, sigma_t: float, sigma_s: float, own: Step | None = None) -> FlowStep:
        """The step from sigma_t to sigma_s, the denoiser being asked at timestep t."""
        a_t, a_s = _signal(sigma_t), _signal(sigma_s)
        return FlowStep(i, t, s, a_t, a_s, sigma_t=sigma_t, sigma_s=sigma_s, own=own)

    def x0(self, x_BCHW: Tensor, v_BCHW: Tensor) -> Tensor:
        """The clean latents that `v` implies: x - sigma_t v."""
        return torch.sub(x_BCHW, v_BCHW, alpha=self.sigma_t)

    def noise(self, x_BCHW: Tensor, v_BCHW: Tensor) -> Tensor:
        """The noise that `v` implies: x + (1 - sigma_t) v."""
        return torch.add(x_BCHW, v_BCHW, alpha=1 - self.sigma_t)

    def next(self, x_BCHW: Tensor, v_BCHW: Tensor) -> Tensor:
        """x + (sigma_s - sigma_t) v (Euler)."""
        return torch.add(x_BCHW, v_BCHW, alpha=self.sigma_s - self.sigma_t)

    def noised(self, x0_BCHW: Tensor, noise_BCHW: Tensor) -> Tensor:
        """Where the step begins for a picture x0: (1 - sigma_t) x0 + sigma_t noise."""
        return (1 - self.sigma_t) * x0_BCHW + self.sigma_t * noise_BCHW

    def inverse(self) -> FlowStep:
        """The same step walked from sigma_s up to sigma_t, the denoiser still asked at `t` (Euler inversion)."""
        own = None if self.own is None else self.own.inverse()
        return FlowStep.between(self.i, self.t, self.s, self.sigma_s, self.sigma_t, own)


@dataclass(frozen=True, slots=True)
class FlowSchedule:
    """How the steps of a walk are laid over sigma = 1 .. 0, as diffusers' FlowMatchEulerDiscreteScheduler does.

    shift: more than 1 spends more of the steps at high noise (Esser et al. 2024, equation 23).
    """

    shift: float = 3.0
    count: int = 1000

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> FlowSchedule:
        """Reads a scheduler_config.json. Raises ModelError for what these steps cannot honour (dynamic shifting, ...)."""
        kind = config.get("_class_name", "FlowMatchEulerDiscreteScheduler")
        if kind != "FlowMatchEulerDiscreteScheduler":
            raise ModelError(f"scheduler {kind} is not supported for a flow; expected FlowMatchEulerDiscreteScheduler")
        for key in _REFUSED:
            if config.get(key):
                raise ModelError(
                    f"scheduler_config.json sets {key}, which paintover does not walk; use a bundle where it is left out"
                )
        shift, count = float(config.get("shift", 1.0)), int(config.get("num_train_timesteps", 1000))
        if not (shift > 0 and count > 0):
            raise ModelError(f"scheduler_config.json has shift {shift} and {count} timesteps; expected positive numbers")
        return FlowSchedule(shift, count)

    def steps(self, steps: int, start: float = 1.0, eta: float = 0.0) -> list[Step]:
        """The steps of a walk, noisiest first; `start` in 0..1 keeps only the last int(steps * start) of them.

        Raises KnobError for an eta other than 0: a flow's steps add no noise.
        """
        if not 0 <= start <= 1:
            raise RequestError(f"start is {start}; expected 0 (the picture as it is) to 1 (from noise)")
        if eta:
            raise KnobError(
                "a rectified flow's steps add no noise; use an inversion that needs none (any but edit-friendly), or a UNet"
            )
        sigmas = self.sigmas(steps)[steps - int(steps * start) :]
        # float32 as diffusers: the network was trained and is served with timesteps of that precision.
        times = [float(np.float32(sigma) * np.float32(self.count)) for sigma in sigmas]
        onward = [*times[1:], 0.0]
        ends = [*sigmas[1:], 0.0]
        return [FlowStep.between(i, t, onward[i], sigmas[i], ends[i]) for i, t in enumerate(times)]

    def sigmas(self, steps: int) -> list[float]:
        """Where each of the steps begins: evenly from 1 to the cleanest trained sigma, then shifted."""
        if not 1 <= steps <= self.count:
            raise RequestError(f"{steps} steps were asked for; expected 1 to {self.count}")
        cleanest = self._shifted(1 / self.count)  # shifted once as diffusers' table and, below, once more with the others
        return [float(np.float32(self._shifted(sigma))) for sigma in np.linspace(1.0, cleanest, steps)]

    def _shifted(self, sigma: float) -> float:
        return self.shift * sigma / (1 + (self.shift - 1) * sigma)


def as_flow(steps: Sequence[Step]) -> list[FlowStep]:
    """Any model's steps as a flow's. Those of a flow stay as they are; those of a diffusion model (DDIM) are seen so:

        z_t = sqrt(a) x0 + sqrt(1 - a) eps    ->    x_sigma = z_t / (sqrt(a) + sqrt(1 - a)),
        sigma = sqrt(1 - a) / (sqrt(a) + sqrt(1 - a)),    v = eps - x0.

    A DDIM step is exactly an Euler step here. Guides must be wrapped in `Velocity`. The walk ends at sigma = 0 whatever the
    scheduler's final alpha is, so that clean latents are the same in both views.
    """
    if all(isinstance(step, FlowStep) for step in steps):
        return [step for step in steps if isinstance(step, FlowStep)]
    owns = [replace(step, a_s=1.0) if step.s < 0 else step for step in steps]
    return [FlowStep.between(own.i, own.t, own.s, _sigma(own.a_t), _sigma(own.a_s), own) for own in owns]


@dataclass(frozen=True, slots=True, eq=False)
class Velocity:
    """A guide for `as_flow` steps from one for the model's own: asks at the model's own latents, and answers v there."""

    guide: Guide

    def noise(self, x_BCHW: Tensor, step: Step) -> Path:
        own = step.own if isinstance(step, FlowStep) else None
        if own is None:
            return (yield from self.guide.noise(x_BCHW, step))
        z_BCHW = (math.sqrt(own.a_t) + math.sqrt(1 - own.a_t)) * x_BCHW
        eps_BCHW = yield from self.guide.noise(z_BCHW, own)
        return eps_BCHW - own.x0(z_BCHW, eps_BCHW)


def _sigma(a: float) -> float:
    return math.sqrt(1 - a) / (math.sqrt(a) + math.sqrt(1 - a))


def _signal(sigma: float) -> float:
    return (1 - sigma) ** 2 / ((1 - sigma) ** 2 + sigma**2)
