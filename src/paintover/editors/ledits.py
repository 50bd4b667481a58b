"""`ledits`: several edits at once, each of which finds its own place (LEdits++)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field, JsonValue

from paintover.conditions.edits import Bounds, Wanted, several
from paintover.editors.editor import Context, Editor
from paintover.editors.knobs import Knobs
from paintover.editors.window import in_steps
from paintover.errors import KnobError

if TYPE_CHECKING:
    from torch import Tensor

    from paintover.path.edits import Edit
    from paintover.path.guidance import Guided
    from paintover.path.predict import Condition, Path, Preparation
    from paintover.path.schedule import Step


class LEditsKnobs(Knobs):
    scale: float = Field(5.0, ge=0, le=50, description="how strongly each edit is followed")
    threshold: float = Field(0.9, ge=0, le=1, description="the part of the picture that each edit's mask leaves out")
    warm_up: int = Field(0, ge=0, le=45, description="steps, of 50, before each edit sets in (more: keeps the layout)")
    cool_down: int = Field(50, ge=5, le=50, description="the step, of 50, at which each edit ends (less: keeps the detail)")
    mask_from: Literal["both", "attention", "noise"] = Field("both", description="what each edit's mask is made from")
    skip: float = Field(0.15, ge=0, le=1, description="share of steps left out at the noisy end (more: closer to the picture)")
    source_guidance: float = Field(3.5, ge=0, le=50, description="how strongly the source prompt is followed, if there is one")


_OWN = ("scale", "threshold", "warm_up", "cool_down")  # what may be said for an edit alone


class LEdits(Editor[LEditsKnobs]):
    """From the picture's edit-friendly inversion on second-order steps; steered by masked guidance for each of several texts.

    Brack et al. 2024.
    """

    name = "ledits"
    summary = 'Several edits at once, each in its own place: "a straw hat; -glasses". "-" takes away.'
    paper = "LEdits++ (Brack et al. 2024)"
    needs = ("text-to-image", "unet")
    told = "caption"
    takes_source_prompt = True
    Knobs = LEditsKnobs

    def check(self, context: Context[LEditsKnobs]) -> None:
        for wanted in self._wanted(context):
            first, last = self._window(context, wanted)
            if first >= last:
                raise KnobError(
                    f"{wanted.text!r} sets in after {first} of {context.steps} steps and ends at {last}, so it is never at "
                    "work; use less warm_up, more cool_down, or more steps"
                )
        most = len(context.diffusion.alphas_cumprod) - 1
        if int(context.steps * (1 + context.knobs.skip)) > most:
            raise KnobError(
                f"{context.steps} steps after skipping {context.knobs.skip:g} of them are more than {most}; use fewer steps"
            )

    def notes(self, context: Context[LEditsKnobs]) -> list[str]:
        alone = [
            replace(context, request=context.request.model_copy(update={"instruction": wanted.text}))
            for wanted in self._wanted(context)
        ]
        return list(dict.fromkeys(note for one in alone for note in super(LEdits, self).notes(one)))

    def shows(self, words: str) -> list[str]:
        count = len(_several(words))
        return ["mask", *(f"mask {k + 1}" for k in range(count) if count > 1)]

    def prepared_from(self, context: Context[LEditsKnobs]) -> dict[str, JsonValue]:
        request, knobs = context.request, context.knobs
        depends: dict[str, JsonValue] = {"steps": context.steps, "skip": knobs.skip, "seed": request.seed}
        if not request.source_prompt:
            return depends
        return depends | {"source_prompt": request.source_prompt, "source_guidance": knobs.source_guidance}

    def prepare(self, context: Context[LEditsKnobs]) -> Preparation:
        from paintover.path.dpm import SecondOrder
        from paintover.path.inversion.edit_friendly import through

        base, _ = self._base(context)
        return (yield from through(context.source, self._steps(context), SecondOrder(base), context.request.seed)).tensors()

    def path(self, context: Context[LEditsKnobs], prepared: dict[str, Tensor]) -> Path:
        from paintover.path.dpm import SecondOrder
        from paintover.path.edits import Edits
        from paintover.path.source import Source
        from paintover.path.walk import walk

        source = Source.of(prepared)
        base, null = self._base(context)
        edits = Edits(base, null, self._edits(context), context.knobs.mask_from, context.mask_HW)
        latents = yield from walk(source.record.x[0], self._steps(context), SecondOrder(edits), after=source.after)
        masks = edits.mean_masks()
        if masks:
            context.shown["mask"] = sum(masks.values(), start=0 * latents[0, 0]).clamp(max=1)
        if len(masks) > 1:
            context.shown.update({f"mask {k + 1}": mask_HW for k, mask_HW in masks.items()})
        return latents

    def _base(self, context: Context[LEditsKnobs]) -> tuple[Guided, Condition]:
        """What the picture's own walk is told, and no words."""
        from paintover.conditions.prompt import prompts
        from paintover.path.guidance import classifier_free, plain

        source, null = prompts(context.bundle.text, [context.request.source_prompt or "", ""])
        if not context.request.source_prompt:
            return plain(null), null
        return classifier_free(source, null, context.knobs.source_guidance), null

    def _edits(self, context: Context[LEditsKnobs]) -> list[Edit]:
        from paintover.conditions.prompt import prompts
        from paintover.path.edits import Edit

        text, edits = context.bundle.text, []
        for wanted in self._wanted(context):
            [condition] = prompts(text, [wanted.text])
            scale, threshold = (self._own(context, wanted, name) for name in ("scale", "threshold"))
            first, last = self._window(context, wanted)
            edits.append(Edit(condition, text.count(wanted.text), -scale if wanted.away else scale, threshold, first, last))
        return edits

    def _steps(self, context: Context[LEditsKnobs]) -> list[Step]:
        from paintover.path.dpm import dpm_steps

        return dpm_steps(context.diffusion, context.steps, context.knobs.skip)

    def _wanted(self, context: Context[LEditsKnobs]) -> list[Wanted]:
        return _several(context.request.instruction)

    def _window(self, context: Context[LEditsKnobs], wanted: Wanted) -> tuple[int, int]:
        """The steps that an edit is at work: from the first to before the last."""
        first, last = (in_steps(n, self._own(context, wanted, n), 50, context.steps) for n in ("warm_up", "cool_down"))
        return first, last

    def _own(self, context: Context[LEditsKnobs], wanted: Wanted, name: str) -> float:
        return wanted.settings.get(name, getattr(context.knobs, name))


def _several(words: str) -> list[Wanted]:
    schema = LEditsKnobs.model_json_schema()["properties"]
    bounds = {n: Bounds(schema[n]["minimum"], schema[n]["maximum"], schema[n]["type"] == "integer") for n in _OWN}
    return several(words, bounds)
