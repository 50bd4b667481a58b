"""`edit-friendly`: the picture as a noisy walk, whose noise is kept and whose words are changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, JsonValue

from paintover.editors.editor import Context, Editor
from paintover.editors.knobs import Knobs
from paintover.editors.two_branch import inverted_from
from paintover.editors.window import rounded

if TYPE_CHECKING:
    from torch import Tensor

    from paintover.path.predict import Condition, Path, Preparation


class EditFriendlyKnobs(Knobs):
    guidance: float = Field(15.0, ge=-50, le=50, description="how strongly the caption is followed (1: no guidance)")
    source_guidance: float = Field(3.5, ge=-50, le=50, description="how strongly the picture is read as its source prompt says")
    skip: int = Field(18, ge=0, le=49, description="first steps left out, of 50 (more: closer to the picture)")
    negative_prompt: str = Field("", max_length=2000, description="what to steer away from")


class EditFriendly(Editor[EditFriendlyKnobs]):
    """From the picture noised up to step `skip`, a DDPM walk under the new caption that adds the picture's own noise maps.

    x_(i+1) = mu_i(x_i; caption) + sigma_i z_i, with the z_i that lead through the picture under its source prompt
    (Huberman-Spiegelglas et al. 2024). With the source prompt as caption, at the source's guidance, it is the picture.
    """

    name = "edit-friendly"
    summary = "Describe the picture you want; it keeps the source's layout by its noise. Helped by --source-prompt."
    paper = "Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2024)"
    needs = ("text-to-image", "unet")
    steps = 50
    told = "caption"
    takes_source_prompt = True
    prepared_by = "source"
    Knobs = EditFriendlyKnobs

    def prepared_from(self, context: Context[EditFriendlyKnobs]) -> dict[str, JsonValue]:
        return inverted_from(self.name, context, context.knobs.source_guidance, context.knobs.negative_prompt)

    def prepare(self, context: Context[EditFriendlyKnobs]) -> Preparation:
        from paintover.path.inversion import INVERSIONS

        inversion = INVERSIONS[self.name]  # the inversion of the same name
        source, null = self._prompts(context, context.request.source_prompt or "")
        told = inversion.told(source, null, context.knobs.source_guidance, context.request.seed, {})
        steps = context.schedule.steps(context.steps, eta=inversion.eta)
        return (yield from inversion.invert(context.source, steps, told)).tensors()

    def path(self, context: Context[EditFriendlyKnobs], prepared: dict[str, Tensor]) -> Path:
        from paintover.path.guidance import classifier_free
        from paintover.path.source import Source
        from paintover.path.walk import walk

        source, skipped = Source.of(prepared), self._skipped(context)
        wanted, null = self._prompts(context, context.request.instruction)
        steps = context.schedule.steps(context.steps, eta=1.0)[skipped:]
        guide = classifier_free(wanted, null, context.knobs.guidance)
        return walk(source.record.x[skipped], steps, guide, after=source.after)

    def _skipped(self, context: Context[EditFriendlyKnobs]) -> int:
        return min(rounded(context.knobs.skip, 50, context.steps), context.steps - 1)  # less than all of them

    def _prompts(self, context: Context[EditFriendlyKnobs], text: str) -> list[Condition]:
        """Its condition, and that of the negative prompt."""
        from paintover.conditions.prompt import prompts

        return prompts(context.bundle.text, [text, context.knobs.negative_prompt])
