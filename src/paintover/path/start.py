"""Where a path starts: noise, or a part-noised picture. (An inverted picture is `walk.invert`.)"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from paintover.path.schedule import Schedule, Step


def noise(seed: int, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Standard normal latents from a seed's own stream, float32: drawn on the CPU, so that every device draws the same."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)).to(device)


def late(x0_BCHW: Tensor, noise_BCHW: Tensor, steps: Sequence[Step], strength: float) -> Tensor:
    """Late start (SDEdit, Meng et al. 2022): where `steps = schedule.steps(n, start=strength)` begins for a picture x0.

    sqrt(a_t) x0 + sqrt(1 - a_t) noise at the first of the steps. Without steps it is the picture itself, and at strength 1
    the noise itself, so that the two ends are exactly "no edit" and "from words alone" (diffusers' img2img keeps a
    trace of the picture, sqrt(a_981) = 0.08 of it, even at strength 1).
    """
    if not steps:
        return x0_BCHW
    if strength == 1:
        return noise_BCHW
    return steps[0].noised(x0_BCHW, noise_BCHW)


def noises(seed: int, shape: Sequence[int], device: torch.device | str = "cpu") -> Callable[[], Tensor]:
    """A seed's stream of noises, another one at each call; the first is `noise(seed, shape)`."""
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(tuple(shape), generator=generator).to(device)


def equal_start(schedule: Schedule, strength: float) -> float:
    """The start of this schedule that leaves as much of a picture as `strength` does of Stable Diffusion's.

    The smallest k / T for which alpha_bar_k, the k-th of its T timesteps, is at most Stable Diffusion's alpha_bar there: at
    0.9 that one leaves sqrt(a) = 0.12 of the picture, and a schedule that ends in more noise as little much earlier. 0 and 1
    are 0 and 1 in every schedule, and Stable Diffusion's own starts are themselves, rounded up to whole timesteps.
    """
    if strength in (0, 1):
        return strength
    usual = Schedule.stable_diffusion().alphas_cumprod
    level = usual[math.ceil(round(len(usual) * strength, 6)) - 1]
    count = len(schedule.alphas_cumprod)
    return min(sum(a > level for a in schedule.alphas_cumprod) + 1, count) / count
