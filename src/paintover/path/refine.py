"""A picture that a path made, walked once more over the last part of the way: what is rough in it is painted anew."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from paintover.path.guidance import Guide
from paintover.path.predict import Network, Path
from paintover.path.schedule import Step
from paintover.path.start import late
from paintover.path.through import through
from paintover.path.walk import walk


def refine(
    x0_BCHW: Tensor,
    steps: Sequence[Step],
    strength: float,
    noise_BCHW: Tensor,
    guide: Guide,
    network: Network | None = None,
) -> Path:
    """From latents x0 (B = 1), noised to where `steps = schedule.steps(n, start=strength)` begin, back to clean ones.

    guide: what the steps follow, told what `network` is to be told. network: whose weights walk, SDXL's refiner or any other
    of these latents; None: the engine's own. As diffusers' img2img pipelines, but that strength 1 leaves nothing of x0, and
    that without steps x0 stays as it is.
    """
    path = walk(late(x0_BCHW, noise_BCHW, steps, strength), steps, guide)
    return path if network is None else through(network, path)
