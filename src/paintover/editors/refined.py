"""A second pass over what an editor made: by SDXL's refiner where the bundle has one, or else by its own network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paintover.editors.editor import Context

if TYPE_CHECKING:
    from torch import Tensor

    from paintover.path.guidance import Guide
    from paintover.path.predict import Path


def refined(
    x0_BCHW: Tensor, context: Context[Any], strength: float, caption: str, unwanted: str, guidance: float, own: Guide
) -> Path:
    """The latents after the last int(steps * strength) of the request's steps, walked anew from noise of its seed.

    A refiner is told the caption and what is unwanted in words alone, and the aesthetic scores that it knows; it knows nothing
    of source pictures or other media. own: what the bundle's network follows, where there is no refiner.
    """
    from paintover.conditions.prompt import prompts
    from paintover.models.refiner import BAD, GOOD
    from paintover.path.guidance import classifier_free
    from paintover.path.predict import Condition
    from paintover.path.refine import refine
    from paintover.path.schedule import Schedule
    from paintover.path.start import noise

    fresh = noise(_seed(context.request.seed), context.shape, context.device)
    refiner = context.bundle.refiner
    if refiner is None:
        return refine(x0_BCHW, context.schedule.steps(context.steps, start=strength), strength, fresh, own)
    good, bad = (
        Condition(c.tokens_BLD, None if c.pooled_BD is None else refiner.told(c.pooled_BD, score))
        for c, score in zip(prompts(refiner.text, [caption, unwanted]), (GOOD, BAD), strict=True)
    )
    steps = Schedule.from_config(refiner.scheduler_config).steps(context.steps, start=strength)
    return refine(x0_BCHW, steps, strength, fresh, classifier_free(good, bad, guidance), refiner.denoiser)


def _seed(seed: int) -> int:
    """Of another stream than the first pass's noises, which are the seed's own."""
    import numpy as np

    return int(np.random.SeedSequence([seed, 3]).generate_state(1, np.uint64)[0] >> 1)
