"""A cascade's second stage: the picture that a path made, walked again by a network that paints it larger."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from paintover.models.upscaler import Upscaler, levels
from paintover.path.guidance import classifier_free
from paintover.path.predict import Condition, Path
from paintover.path.schedule import Schedule
from paintover.path.through import through
from paintover.path.walk import walk


def upscale(
    low_BCHW: Tensor,
    upscaler: Upscaler,
    wanted: Condition,
    unwanted: Condition,
    guidance: float,
    level: int,
    steps: int,
    draw: Callable[[], Tensor],
) -> Path:
    """From noise to the large picture (B = 1, pixels in [-1, 1]), told the small one and what both stages are told.

    wanted, unwanted: text conditions. level: of the noise put on the small picture, a timestep. draw: the noises, as large as
    the result: where the walk starts, then the small picture's. As diffusers' IFSuperResolutionPipeline, but for the walk,
    which is DDIM's.
    """
    x_T, noise_BCHW = draw(), draw()
    level_B = levels(level)
    source_BCHW, told_B1 = upscaler.source(low_BCHW, noise_BCHW, level_B), upscaler.told(level_B)
    wanted, unwanted = (Condition(c.tokens_BLD, told_B1, source_BCHW) for c in (wanted, unwanted))
    route = Schedule.from_config(upscaler.about.scheduler_config).steps(steps)
    return through(upscaler.denoiser, walk(x_T, route, classifier_free(wanted, unwanted, guidance)))
