"""Where a path starts: noise, a part-noised picture, or between two noises. (An inverted picture is `walk.invert`.)"""

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


def polar(x_BCHW: Tensor, y_BCHW: Tensor, alpha: float) -> Tensor:
    """Between two noises, alpha of the way from y to x: m = alpha x + (1 - alpha) y, but as long as they are.

    |polar| = alpha |x| + (1 - alpha) |y| (InstructAny2Pix; methods.md D.4): a plain mean of independent noises would be too
    short, by sqrt(2) in the middle. alpha 1 is x itself, and 0 is y. B = 1.
    """
    if alpha in (0, 1):
        return x_BCHW if alpha else y_BCHW
    mean = alpha * x_BCHW + (1 - alpha) * y_BCHW
    length = alpha * x_BCHW.norm() + (1 - alpha) * y_BCHW.norm()
    return mean * (length / mean.norm().clamp_min(1e-12))


def start_leaving(schedule: Schedule, left: float) -> float:
    """The start of the schedule, in (0, 1], at which no more than `left` of a picture's amplitude is left in its noise.

    The smallest k / T for which sqrt(alpha_bar_k), of the k-th of its T timesteps, is at most that; 1 where it never is, and
    for 0. Schedules end in very different noise: Stable Diffusion's leaves 0.12 at 0.9, and 0.07 at its end; the built-in
    model's leaves 0.12 at 0.55.
    """
    count = len(schedule.alphas_cumprod)
    return min(sum(math.sqrt(a) > left for a in schedule.alphas_cumprod) + 1, count) / count
