"""`masactrl`: another pose or action, painted with what the source looks like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from paintover.editors.editor import Context
from paintover.editors.two_branch import Branches, TwoBranch, TwoBranchKnobs
from paintover.editors.window import rounded
from paintover.errors import KnobError

if TYPE_CHECKING:
    from paintover.path.masactrl import KeepLooks, TakeLooks
    from paintover.path.predict import Condition, Path
    from paintover.path.schedule import Step


class MasaCtrlKnobs(TwoBranchKnobs):
    from_step: int = Field(4, ge=0, le=50, description="from which of 50 steps on the source is looked at (later: freer)")
    from_layer: int = Field(10, ge=0, le=15, description="from which of 16 self-attention layers on (7 to 15: the decoder)")
    subject: str = Field(
        "", max_length=1000, examples=["cow/sheep"], description='tell a thing from what is behind it, by words: "cow/sheep"'
    )
    threshold: float = Field(0.1, ge=0, le=1, examples=[0.5], description="how sure of its words --subject must be")


class MasaCtrl(TwoBranch[MasaCtrlKnobs]):
    """From the inverted picture, told a caption, its queries attending to the source's keys and values.

    Cao et al. 2023; methods.md G, J.
    """

    name = "masactrl"
    summary = "Describe another pose or action of the same thing: layout by the words, looks from the source."
    paper = "MasaCtrl (Cao et al. 2023)"
    needs = ("text-to-image", "unet")
    steps = 50
    Knobs = MasaCtrlKnobs

    def check(self, context: Context[MasaCtrlKnobs]) -> None:
        if self._words(context) and not context.knobs.guidance:
            raise KnobError("subject looks for words of the caption, which guidance 0 does not read; use another guidance")

    def notes(self, context: Context[MasaCtrlKnobs]) -> list[str]:
        from_step, steps = context.knobs.from_step, context.steps
        notes = super().notes(context)
        usual = context.bundle.defaults.get(self.name, {}).get("from_step", MasaCtrlKnobs.model_fields["from_step"].default)
        if from_step not in (0, usual) and not rounded(from_step, 50, steps):
            notes.append(
                f"from_step {from_step} of 50 steps is less than half a step of {steps}: the source is looked at from the first"
            )
        return notes

    def branch(self, context: Context[MasaCtrlKnobs], branches: Branches) -> Path:
        from paintover.models.tapping import coarsest
        from paintover.path.attention import Beside, WordMap, most_pixels
        from paintover.path.guidance import same
        from paintover.path.masactrl import KeepLooks, TakeLooks, masks
        from paintover.path.walk import walk

        knobs, c_source, c_wanted = context.knobs, branches.c_source, branches.c_wanted
        begin = rounded(knobs.from_step, 50, context.steps)
        places = self._words(context)
        grid = coarsest(context.bundle.denoiser, (context.shape[2], context.shape[3]))
        there, here = (WordMap(p, most_pixels(16, grid)) for p in places) if places else (None, None)

        def looks_at(step: Step, told: Condition) -> Condition | None:
            """The edit's caption at the source's, no words at no words."""
            if step.i < begin:
                return None
            return c_source if told is c_wanted or same(told, c_source) else told

        def records(step: Step, told: Condition) -> KeepLooks:
            return KeepLooks(step, knobs.from_layer, there if told is c_source else None)

        def uses(step: Step, told: Condition, source: KeepLooks | None) -> TakeLooks | None:
            found = masks(there, here, knobs.threshold)
            if found is not None:
                context.shown["mask"] = found.here_HW
            return TakeLooks(step, source, found, here if told is c_wanted else None)

        beside = Beside(branches.wanted, branches.source.record, looks_at, records, uses)
        return walk(branches.x_T, branches.steps, beside, after=branches.after)

    def _words(self, context: Context[MasaCtrlKnobs]) -> tuple[list[int], list[int]] | None:
        from paintover.conditions.words import pair

        request = context.request
        if not context.knobs.subject:
            return None
        return pair(context.bundle.text, request.source_prompt or "", request.instruction, context.knobs.subject, "subject")
