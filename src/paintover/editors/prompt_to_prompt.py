"""`prompt-to-prompt`: change words of the caption, and keep where the network looked for the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from paintover.editors.editor import Context
from paintover.editors.two_branch import Branches, TwoBranch, TwoBranchKnobs
from paintover.errors import KnobError

if TYPE_CHECKING:
    from torch import Tensor

    from paintover.conditions.words import Alignment
    from paintover.path.predict import Condition, Path
    from paintover.path.prompt_to_prompt import KeepMaps, TakeMaps
    from paintover.path.schedule import Step


class PromptToPromptKnobs(TwoBranchKnobs):
    mode: Literal["auto", "refine", "replace"] = Field(
        "auto", description="how the captions' words correspond (auto: replace if they have as many words, or else refine)"
    )
    cross_steps: float = Field(0.8, ge=0, le=1, description="share of the steps that keep where each word is")
    self_steps: float = Field(0.4, ge=0, le=1, description="share of the steps that keep the layout (self-attention)")
    self_size: int = Field(
        16, ge=1, le=64, examples=[4], description="the finest self-attention maps that are kept, in pixels a side"
    )
    reweight: str = Field(
        "", max_length=1000, examples=["sheep=2"], description='words of the caption that count more or less: "snow=2,cow=0.5"'
    )
    blend: str = Field(
        "", max_length=1000, examples=["cow/sheep"], description='change the picture only where these words are: "cow/sheep"'
    )
    threshold: float = Field(
        0.3, ge=0, le=1, examples=[0.9], description="how sure of its words --blend must be (0: the whole picture)"
    )


class PromptToPrompt(TwoBranch[PromptToPromptKnobs]):
    """From the inverted picture, told a caption, with the source's attention maps where the captions correspond.

    Hertz et al. 2022; methods.md F.3, G.
    """

    name = "prompt-to-prompt"
    summary = 'Swap, add or weigh words of the caption ("a cow" to "a sheep"); the rest stays. Wants --source-prompt.'
    paper = "Prompt-to-Prompt (Hertz et al. 2022)"
    needs = ("text-to-image", "unet")
    steps = 50
    Knobs = PromptToPromptKnobs

    def check(self, context: Context[PromptToPromptKnobs]) -> None:
        from paintover.path.attention import share

        knobs = context.knobs
        share(knobs.cross_steps, context.steps, "cross_steps")
        share(knobs.self_steps, context.steps, "self_steps")
        self._words(context)
        if knobs.blend and not knobs.guidance:
            raise KnobError("blend looks for words of the caption, which guidance 0 does not read; use another guidance")

    def notes(self, context: Context[PromptToPromptKnobs]) -> list[str]:
        notes = super().notes(context)
        if not context.request.source_prompt:
            notes.append("without a source prompt only the layout is kept, and no words; describe the picture with it")
        if context.knobs.reweight and not context.knobs.cross_steps:
            notes.append("reweight has no effect with cross_steps 0, where no step looks at words; use more")
        return notes

    def branch(self, context: Context[PromptToPromptKnobs], branches: Branches) -> Path:
        from paintover.models.tapping import coarsest
        from paintover.path.attention import Beside, WordMap, most_pixels, share
        from paintover.path.prompt_to_prompt import Blend, KeepMaps, TakeMaps
        from paintover.path.walk import walk

        knobs, record = context.knobs, branches.source.record
        alignment, weights_L, places = self._words(context)
        grid = coarsest(context.bundle.denoiser, (context.shape[2], context.shape[3]))
        there, here = (WordMap(p, most_pixels(16, grid)) for p in places) if places else (None, None)
        cross = share(knobs.cross_steps, context.steps, "cross_steps")
        layout = share(knobs.self_steps, context.steps, "self_steps")

        def records(step: Step, told: Condition) -> KeepMaps | None:
            if step.i < max(cross, layout) or there is not None:
                pixels = most_pixels(knobs.self_size, grid) if step.i < layout else 0
                return KeepMaps(step, step.i < cross, pixels, there)
            return None

        def uses(step: Step, told: Condition, source: KeepMaps | None) -> TakeMaps | None:
            return None if source is None else TakeMaps(source, alignment, weights_L, here)

        def looks_at(step: Step, told: Condition) -> Condition | None:
            return branches.c_source if told is branches.c_wanted else None

        beside = Beside(branches.wanted, record, looks_at, records, uses)
        if there is None or here is None:
            return walk(branches.x_T, branches.steps, beside, after=branches.after)
        blend = Blend(record, there, here, knobs.threshold)

        def after(step: Step, x_BCHW: Tensor) -> Tensor:
            mixed, context.shown["mask"] = blend.mix(step, branches.after(step, x_BCHW))
            return mixed

        return walk(branches.x_T, branches.steps, beside, after=after)

    def _words(self, context: Context[PromptToPromptKnobs]) -> tuple[Alignment, Tensor, tuple[list[int], list[int]] | None]:
        """How the captions' tokens correspond, what each counts, and where the words of the blend are."""
        from paintover.conditions.words import align, pair, weights

        request, knobs, text = context.request, context.knobs, context.bundle.text
        source, wanted = request.source_prompt or "", request.instruction
        alignment = align(text, source, wanted, knobs.mode)
        weights_L = weights(text, wanted, knobs.reweight, "reweight")
        places = pair(text, source, wanted, knobs.blend, "blend") if knobs.blend else None
        return alignment.to(context.device), weights_L.to(context.device), places
