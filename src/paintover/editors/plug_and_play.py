"""`plug-and-play`: the source's layout, feature by feature, filled with what the caption says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from paintover.editors.editor import Context
from paintover.editors.two_branch import Branches, TwoBranch, TwoBranchKnobs

if TYPE_CHECKING:
    from paintover.path.plug_and_play import KeepLayout, TakeLayout
    from paintover.path.predict import Condition, Path
    from paintover.path.schedule import Step


class PlugAndPlayKnobs(TwoBranchKnobs):
    feature_steps: float = Field(0.8, ge=0, le=1, description="share of the steps that keep the source's features")
    attention_steps: float = Field(0.5, ge=0, le=1, description="share of the steps that keep the source's self-attention")


class PlugAndPlay(TwoBranch[PlugAndPlayKnobs]):
    """From the inverted picture, told a caption, with the source's features and self-attention in the decoder.

    Tumanyan et al. 2023; methods.md G.
    """

    name = "plug-and-play"
    summary = "Describe another look of the same layout: another style, material or season."
    paper = "Plug-and-Play (Tumanyan et al. 2023)"
    needs = ("text-to-image", "unet")
    steps = 50
    Knobs = PlugAndPlayKnobs

    def check(self, context: Context[PlugAndPlayKnobs]) -> None:
        self._windows(context)

    def branch(self, context: Context[PlugAndPlayKnobs], branches: Branches) -> Path:
        from paintover.path.attention import Beside
        from paintover.path.plug_and_play import KeepLayout, TakeLayout
        from paintover.path.walk import walk

        feature, attention = self._windows(context)

        def records(step: Step, told: Condition) -> KeepLayout | None:
            return KeepLayout(step.i < feature, step.i < attention) if step.i < max(feature, attention) else None

        def uses(step: Step, told: Condition, source: KeepLayout | None) -> TakeLayout | None:
            return None if source is None else TakeLayout(source)

        # All rows of the edit look at the same row of the source, the unguided one too.
        beside = Beside(branches.wanted, branches.source.record, lambda step, told: branches.c_source, records, uses)
        return walk(branches.x_T, branches.steps, beside, after=branches.after)

    def _windows(self, context: Context[PlugAndPlayKnobs]) -> tuple[int, int]:
        from paintover.path.attention import share

        knobs, steps = context.knobs, context.steps
        feature = share(knobs.feature_steps, steps, "feature_steps")
        return feature, share(knobs.attention_steps, steps, "attention_steps")
