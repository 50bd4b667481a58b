"""`instruct`: tell the model what to change (InstructPix2Pix)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from paintover.editors.editor import Context, Editor
from paintover.editors.knobs import Knobs

if TYPE_CHECKING:
    from torch import Tensor

    from paintover.path.predict import Path


class InstructKnobs(Knobs):
    guidance: float = Field(7.5, ge=-50, le=50, description="how strongly the instruction is followed (0: not at all)")
    image_guidance: float = Field(1.5, ge=-50, le=50, description="how strongly the result is held to the picture")


class Instruct(Editor[InstructKnobs]):
    """From noise, told the instruction, with the source's latents on extra channels, steered by dual guidance.

    Brooks et al. 2023, equation 3; methods.md B.2.
    """

    name = "instruct"
    summary = 'Say what should change: "replace the apple with a lemon".'
    paper = "InstructPix2Pix (Brooks et al. 2023)"
    needs = ("instruct",)
    steps = 50
    Knobs = InstructKnobs

    def path(self, context: Context[InstructKnobs], prepared: dict[str, Tensor]) -> Path:
        from paintover.conditions.prompt import prompts
        from paintover.path.guidance import dual
        from paintover.path.start import noise
        from paintover.path.walk import walk

        image_BCHW = context.source / context.bundle.codec.scale  # unscaled: InstructPix2Pix's convention
        told, null = prompts(context.bundle.text, [context.request.instruction, ""], image_BCHW)
        guided = dual(told, null, context.knobs.guidance, context.knobs.image_guidance)
        x_T = noise(context.request.seed, context.shape, context.device)
        return walk(x_T, context.schedule.steps(context.steps), guided)
