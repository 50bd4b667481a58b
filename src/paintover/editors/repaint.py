"""`repaint`: what is inside a mask painted anew, told nothing. Asked for by `paintover train variants`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from paintover.editors import window
from paintover.editors.editor import Context, Editor
from paintover.editors.knobs import Knobs

if TYPE_CHECKING:
    from torch import Tensor

    from paintover.path.predict import Path


class RepaintKnobs(Knobs):
    strength: float = Field(1.0, ge=0, le=1, description="how far the inside of the mask is noised (1: nothing of it is left)")


class Repaint(Editor[RepaintKnobs]):
    """SDEdit's walk without words; outside of the mask the latents are, at each step, the picture's with that step's noise.

    The denoiser is told no words and shown no source, even where it has channels for one: what it paints goes with what is
    around it, and with nothing else.
    """

    name = "repaint"
    summary = "Paint what is inside a mask anew, told nothing."
    paper = "InstructAny2Pix (Li et al. 2023), section on the data of diffusion realignment"
    needs = ()
    steps = 50
    told = "nothing"
    hidden = True
    Knobs = RepaintKnobs

    def check(self, context: Context[RepaintKnobs]) -> None:
        window.check_strength(context.knobs.strength, context.steps)

    def path(self, context: Context[RepaintKnobs], prepared: dict[str, Tensor]) -> Path:
        import torch

        from paintover.conditions.prompt import prompts
        from paintover.path.guidance import plain
        from paintover.path.masks import held_to
        from paintover.path.start import noise
        from paintover.path.walk import walk

        [nothing] = prompts(context.bundle.text, [""])
        x_t0, steps = context.late_start(context.knobs.strength)
        eps = noise(context.request.seed, context.shape, context.device)
        mask_HW = context.mask_HW if context.mask_HW is not None else torch.ones(context.shape[2:], device=context.device)
        source_x = [*(step.noised(context.source, eps) for step in steps), context.source]
        return walk(x_t0, steps, plain(nothing), after=held_to(mask_HW, source_x))
