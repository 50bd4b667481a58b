"""`diffedit`: find where two captions disagree about the picture, and repaint that place alone (DiffEdit)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field, JsonValue

from paintover.editors.editor import Context
from paintover.editors.two_branch import Branches, TwoBranch, TwoBranchKnobs
from paintover.errors import KnobError

if TYPE_CHECKING:
    from paintover.path.predict import Path
    from paintover.path.schedule import Step


class DiffEditKnobs(TwoBranchKnobs):
    strength: float = Field(0.8, ge=0, le=1, description="how far up the picture is inverted (1: all the way to noise)")
    threshold: float = Field(0.5, ge=0, le=1, description="more: a smaller mask (0: no mask is sought, yours alone counts)")
    maps: int = Field(10, ge=1, le=100, description="noises that the mask is averaged over")
    mask_strength: float = Field(0.5, ge=0.1, le=1, description="how far the picture is noised to find the mask")
    reference: str = Field("", max_length=2000, description="what the mask holds the caption against, if not the source prompt")


class DiffEdit(TwoBranch[DiffEditKnobs]):
    """From the picture inverted part of the way, told a caption; outside of a mask held to the picture's own latents.

    The mask is where the noises predicted under caption and source prompt differ most. Couairon et al. 2023.
    """

    name = "diffedit"
    summary = "Describe the picture you want; finds the place to repaint by itself. Helped by --source-prompt."
    paper = "DiffEdit (Couairon et al. 2023)"
    confined = True
    Knobs = DiffEditKnobs

    def check(self, context: Context[DiffEditKnobs]) -> None:
        super().check(context)
        steps = context.steps
        for name, part in (("strength", context.knobs.strength), ("mask_strength", context.knobs.mask_strength)):
            if not int(steps * part):
                least = math.ceil(1000 / steps) / 1000
                raise KnobError(f"{name} {part:g} of {steps} steps is less than one step; use {least:g} or more, or more steps")

    def notes(self, context: Context[DiffEditKnobs]) -> list[str]:
        notes, text = super().notes(context), context.bundle.text
        if context.knobs.reference and text.cuts(context.knobs.reference):
            notes.append(f"the reference has more than the {text.length} tokens that the model reads; its end has no effect")
        found = context.shown.get("mask")
        if found is not None and not found.any():
            notes.append(
                "the mask is empty, so nothing was changed: caption and source prompt differ nowhere in it; "
                "use a lower threshold"
            )
        return notes

    def prepared_from(self, context: Context[DiffEditKnobs]) -> dict[str, JsonValue]:
        depends = super().prepared_from(context)
        walked = len(self._steps(context))
        return depends if walked == context.steps else depends | {"walked": walked}

    def branch(self, context: Context[DiffEditKnobs], branches: Branches) -> Path:
        from paintover.path.masks import held_to
        from paintover.path.walk import walk

        mask_HW = yield from self._mask(context, branches)
        context.shown["mask"] = mask_HW
        x = branches.source.record.x
        if not mask_HW.any():
            return x[-1]
        steps = branches.steps[-int(context.steps * context.knobs.strength) :]
        held = held_to(mask_HW, x)
        return (yield from walk(x[steps[0].i], steps, branches.wanted, after=lambda s, y: held(s, branches.after(s, y))))

    def _mask(self, context: Context[DiffEditKnobs], branches: Branches) -> Path:
        """mask_HW, the user's one included."""
        import torch

        from paintover.path.masks import difference_mask, differences
        from paintover.path.start import noise

        knobs = context.knobs
        shape = context.shape
        mask_HW = torch.ones(shape[2:], device=context.device)
        if knobs.threshold > 0:
            [step, *_] = context.schedule.steps(context.steps, start=knobs.mask_strength)
            noise_SCHW = noise(context.request.seed, (knobs.maps, *shape[1:]), context.device)
            picture = branches.source.record.x[-1] if context.source_BCHW is None else context.source
            reference = self._prompts(context, knobs.reference)[0] if knobs.reference else branches.c_source
            answers = yield from differences(picture, step, noise_SCHW, reference, branches.c_wanted)
            mask_HW = difference_mask(answers, knobs.threshold)
        return mask_HW if context.mask_HW is None else mask_HW * context.mask_HW

    def _steps(self, context: Context[DiffEditKnobs]) -> list[Step]:
        """Those up to where the picture is inverted; a picture that is made is made by all of them."""
        from paintover.path.inversion import INVERSIONS

        if context.source_BCHW is None:
            return super()._steps(context)
        eta = INVERSIONS[context.knobs.inversion].eta
        return context.schedule.steps(context.steps, start=context.knobs.strength, eta=eta)
