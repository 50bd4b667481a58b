"""`sdedit`: noise the picture part of the way, and let a caption of what you want bring it back (SDEdit)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from paintover.editors import window
from paintover.editors.editor import Context, Editor
from paintover.editors.knobs import Knobs

if TYPE_CHECKING:
    from torch import Tensor

    from paintover.path.predict import Path


class SDEditKnobs(Knobs):
    strength: float = Field(0.6, ge=0, le=1, description="how far the picture is noised (1: nothing of it is left)")
    guidance: float = Field(7.5, ge=-50, le=50, description="how strongly the caption is followed (1: no guidance)")
    negative_prompt: str = Field("", max_length=2000, description="what to steer away from")


class SDEdit(Editor[SDEditKnobs]):
    """From the part-noised picture x_t0, told a caption of the wanted picture, steered by classifier-free guidance.

    Meng et al. 2022; methods.md identity 19. The negative prompt stands where guidance has the empty one.
    """

    name = "sdedit"
    summary = 'Describe the picture you want: "a horse on a beach"; keeps rough layout and colours.'
    paper = "SDEdit (Meng et al. 2022)"
    needs = ("text-to-image",)
    steps = 50
    told = "caption"
    Knobs = SDEditKnobs

    def check(self, context: Context[SDEditKnobs]) -> None:
        window.check_strength(context.knobs.strength, context.steps)

    def path(self, context: Context[SDEditKnobs], prepared: dict[str, Tensor]) -> Path:
        from paintover.conditions.prompt import prompts
        from paintover.path.guidance import classifier_free
        from paintover.path.walk import walk

        wanted, unwanted = prompts(context.bundle.text, [context.request.instruction, context.knobs.negative_prompt])
        x_t0, steps = context.late_start(context.knobs.strength)
        return walk(x_t0, steps, classifier_free(wanted, unwanted, context.knobs.guidance))
