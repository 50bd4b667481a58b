"""`imagine`: a picture from words alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from paintover.editors.editor import Context, Editor
from paintover.editors.knobs import Knobs

if TYPE_CHECKING:
    from torch import Tensor

    from paintover.path.predict import Path


class ImagineKnobs(Knobs):
    guidance: float = Field(7.5, ge=-50, le=50, description="how strongly the prompt is followed (1: no guidance)")
    negative_prompt: str = Field("", max_length=2000, description="what to steer away from")


class Imagine(Editor[ImagineKnobs]):
    """From noise, told a caption, steered by classifier-free guidance (Ho & Salimans 2022)."""

    name = "imagine"
    summary = "Make a picture from words alone (`paintover imagine`)."
    paper = "Classifier-free guidance (Ho & Salimans 2022)"
    needs = ("text-to-image",)
    steps = 50
    told = "caption"
    picture = "never"
    Knobs = ImagineKnobs

    def path(self, context: Context[ImagineKnobs], prepared: dict[str, Tensor]) -> Path:
        from paintover.conditions.prompt import prompts
        from paintover.path.guidance import classifier_free
        from paintover.path.start import noise
        from paintover.path.walk import walk

        wanted, unwanted = prompts(context.bundle.text, [context.request.instruction, context.knobs.negative_prompt])
        x_T = noise(context.request.seed, context.shape, context.device)
        return walk(x_T, context.schedule.steps(context.steps), classifier_free(wanted, unwanted, context.knobs.guidance))
