"""The noise schedule of a diffusion model, and the DDIM steps that walk down it (or up it)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paintover.errors import ModelError, RequestError
from paintover.models.noise import alphas_cumprod


@dataclass(frozen=True, slots=True)
class Threshold:
    """Dynamic thresholding of clean pixels (Imagen, Saharia et al. 2022, section 2.3), for models of pixels in [-1, 1].

    x0' = clip(x0, -s, s) / s, s being the `ratio` quantile of |x0| over a row, but at least 1 and at most `most`.
    """

    ratio: float
    most: float

    def __call__(self, x0_BCHW: Tensor) -> Tensor:
        s_B111 = x0_BCHW.abs().flatten(1).quantile(self.ratio, dim=1).clamp(1.0, self.most).view(-1, 1, 1, 1)
        return x0_BCHW.clamp(-s_B111, s_B111) / s_B111


@dataclass(frozen=True, slots=True)
class Step:
    """One DDIM step: the denoiser is asked at timestep `t`; the latents go from noise level a_t to noise level a_s.

    i:        index within its walk, from 0; a part of a walk keeps the indices of the whole.
    t, s:     this timestep and the next one of the list (-1 at the end: the clean side); whole numbers but for a flow.
    a_t, a_s: alpha_bar (the share of signal variance, 0 < a <= 1) that the latents leave and reach.
    sigma:    standard deviation of the fresh noise that is to be added after `next` (DDPM); 0 is DDIM.
    threshold: what is done to the clean latents that eps implies, before they are believed; None: nothing.
    """

    i: int
    t: float
    s: float
    a_t: float
    a_s: float
    sigma: float = 0.0
    threshold: Threshold | None = None

    def x0(self, x_BCHW: Tensor, eps_BCHW: Tensor) -> Tensor:
        """The clean latents that `eps` implies: (x - sqrt(1 - a_t) eps) / sqrt(a_t), thresholded where the step does so."""
        x0_BCHW = torch.sub(x_BCHW, eps_BCHW, alpha=math.sqrt(1 - self.a_t)) / math.sqrt(self.a_t)
        return x0_BCHW if self.threshold is None else self.threshold(x0_BCHW)

    def noise(self, x_BCHW: Tensor, eps_BCHW: Tensor) -> Tensor:
        """The noise that the denoiser's answer means: the answer itself, but for a flow."""
        return eps_BCHW

    def next(self, x_BCHW: Tensor, eps_BCHW: Tensor) -> Tensor:
        """sqrt(a_s) x0 + sqrt(1 - a_s - sigma^2) eps (DDIM, equation 12, but for its noise), as one sum of x and eps.

        Where x0 is thresholded, eps is the noise that the thresholded x0 leaves in x, as Imagen's sampler has it.
        """
        toward = math.sqrt(max(1 - self.a_s - self.sigma**2, 0.0))  # rounding may take it below 0
        if self.threshold is not None:
            x0_BCHW = self.x0(x_BCHW, eps_BCHW)
            left_BCHW = torch.sub(x_BCHW, x0_BCHW, alpha=math.sqrt(self.a_t)) / math.sqrt(1 - self.a_t)
            return torch.add(math.sqrt(self.a_s) * x0_BCHW, left_BCHW, alpha=toward)
        keep = math.sqrt(self.a_s / self.a_t)
        return torch.add(keep * x_BCHW, eps_BCHW, alpha=toward - keep * math.sqrt(1 - self.a_t))

    def noised(self, x0_BCHW: Tensor, noise_BCHW: Tensor) -> Tensor:
        """Where the step begins for a picture x0: sqrt(a_t) x0 + sqrt(1 - a_t) noise (DDPM, equation 4)."""
        return math.sqrt(self.a_t) * x0_BCHW + math.sqrt(1 - self.a_t) * noise_BCHW

    def inverse(self) -> Step:
        """The same step walked from a_s up to a_t: the same formula, the denoiser still asked at `t` (DDIM inversion)."""
        return Step(self.i, self.t, self.s, self.a_s, self.a_t)


@dataclass(frozen=True, slots=True)
class Schedule:
    """alpha_bar for each training timestep, and how inference steps are laid over them.

    alphas_cumprod: falling, in (0, 1], one per training timestep (t = 0 is the cleanest).
    final_alpha:    alpha_bar beyond the last step: alphas_cumprod[0], or 1 ("set_alpha_to_one").
    offset:         added to every timestep of "leading" spacing (0: 980 .. 0; 1: 981 .. 1, for 50 steps).
    spacing:        "leading", "trailing" or "linspace" (Lin et al. 2023, table 2).
    threshold:      of the clean latents at every step of a walk down; None: there is none.
    """

    alphas_cumprod: tuple[float, ...]
    final_alpha: float
    offset: int = 1
    spacing: str = "leading"
    threshold: Threshold | None = None

    @staticmethod
    def stable_diffusion(offset: int = 1, set_alpha_to_one: bool = False) -> Schedule:
        """Stable Diffusion's constants: betas linear in their square root from 0.00085 to 0.012 over 1000 steps."""
        return Schedule.from_config({"steps_offset": offset, "set_alpha_to_one": set_alpha_to_one})

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Schedule:
        """Reads a diffusers scheduler_config.json; what it leaves out is as in Stable Diffusion.

        But for a DDPMScheduler, where it is as that class has it: no offset, and the last step goes to clean latents. Raises
        ModelError for what a DDIM walk in eps cannot honour: flow matching, clipped x0, zero terminal SNR.
        """
        if str(config.get("_class_name", "")).startswith("FlowMatch"):
            raise ModelError(
                f"scheduler {config['_class_name']} is for a rectified flow, but the bundle's model is a diffusion model; "
                "use a bundle whose scheduler belongs to its model (DDIMScheduler for a UNet)"
            )
        threshold = None
        if config.get("thresholding"):
            threshold = Threshold(config.get("dynamic_thresholding_ratio", 0.995), config.get("sample_max_value", 1.0))
        for key in ("clip_sample", "rescale_betas_zero_snr"):
            if config.get(key) and not (key == "clip_sample" and threshold is not None):  # which goes before it, in diffusers
                raise ModelError(
                    f"scheduler_config.json sets {key}, which paintover does not walk; use a bundle where it is false"
                )
        abar = alphas_cumprod(config)
        ddpm = config.get("_class_name") == "DDPMScheduler"
        return Schedule(
            alphas_cumprod=tuple(abar.tolist()),
            final_alpha=1.0 if config.get("set_alpha_to_one", ddpm) else abar[0].item(),
            offset=config.get("steps_offset", 0 if ddpm else 1),
            spacing=config.get("timestep_spacing", "leading"),
            threshold=threshold,
        )

    def steps(self, steps: int, start: float = 1.0, eta: float = 0.0) -> list[Step]:
        """The steps of a walk, noisiest first; `start` in 0..1 keeps only the last int(steps * start) of them.

        That is the arithmetic of diffusers' img2img `strength`: start = 0 gives no step at all. `eta` 0 is DDIM; 1 is DDPM,
        whose steps say with `sigma` how much fresh noise belongs to them (DDIM, equation 16). Each step goes to the next
        timestep of the list; where 1000 is not a multiple of `steps`, "trailing" and "linspace" thus differ from diffusers,
        whose DDIM assumes equal strides. Raises RequestError for a number of steps the schedule does not have.
        """
        if not 0 <= start <= 1:
            raise RequestError(f"start is {start}; expected 0 (the picture as it is) to 1 (from noise)")
        times = self.timesteps(steps)
        times = times[len(times) - int(steps * start) :]
        levels = [self.alphas_cumprod[t] for t in times] + [self.final_alpha]
        onward = [*times[1:], -1]
        return [
            Step(i, t, onward[i], a_t, a_s, eta * math.sqrt((1 - a_s) / (1 - a_t) * max(1 - a_t / a_s, 0.0)), self.threshold)
            for i, (t, (a_t, a_s)) in enumerate(zip(times, pairwise(levels), strict=True))
        ]

    def timesteps(self, steps: int) -> list[int]:
        """The timesteps of a full walk, noisiest first."""
        count = len(self.alphas_cumprod)
        if not 1 <= steps <= count:
            raise RequestError(f"{steps} steps were asked for; expected 1 to {count}")
        if self.spacing == "leading":
            times = [i * (count // steps) + self.offset for i in reversed(range(steps))]
        elif self.spacing == "trailing":
            times = [int(t) - 1 for t in np.arange(count, 0, -count / steps)[:steps].round()]
        elif self.spacing == "linspace":
            times = [int(t) for t in np.linspace(0, count - 1, steps).round()[::-1]]
        else:
            raise ModelError(f"timestep_spacing is {self.spacing!r}; expected leading, trailing or linspace")
        if times[0] >= count:
            most = max((n for n in range(1, steps) if (n - 1) * (count // n) + self.offset < count), default=0)
            raise RequestError(
                f"{steps} steps are too many for this model's schedule, which has at most {most}; use --steps {most}"
            )
        return times
