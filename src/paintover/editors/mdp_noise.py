"""`mdp-noise`: follow the picture's own path for a while, then the words (MDP on the predicted noise)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from paintover.editors.editor import Context
from paintover.editors.two_branch import Branches, TwoBranch, TwoBranchKnobs

if TYPE_CHECKING:
    from paintover.path.predict import Path


class MDPNoiseKnobs(TwoBranchKnobs):
    t_max: int = Field(47, ge=0, le=50, description="when the window opens: steps that remain, of 50 (less: larger change)")
    t_m: int = Field(26, ge=0, le=50, description="how long the window is, of 50 steps (more: closer to the picture)")
    schedule: Literal["constant", "linear", "cosine", "exponential"] = Field(
        "constant", description="how the picture's share falls within the window"
    )
    amplify: float = Field(1.0, ge=0, le=4, description="multiplies the picture's own noise inside the window")


class MDPNoise(TwoBranch[MDPNoiseKnobs]):
    """From the inverted picture, told a caption, borrowing the source path's noise inside a window of steps.

    Wang et al. 2023; methods.md F.2, F.3.
    """

    name = "mdp-noise"
    summary = "Describe the picture you want; the layout follows the source. Helped by --source-prompt."
    paper = "MDP (Wang et al. 2023)"
    steps = 50
    Knobs = MDPNoiseKnobs

    def check(self, context: Context[MDPNoiseKnobs]) -> None:
        self._weights(context)

    def branch(self, context: Context[MDPNoiseKnobs], branches: Branches) -> Path:
        from paintover.path.mdp import Borrowed
        from paintover.path.walk import walk

        borrowed = Borrowed(branches.wanted, branches.source.record, self._weights(context), context.knobs.amplify)
        return walk(branches.x_T, branches.steps, borrowed, after=branches.after)

    def _weights(self, context: Context[MDPNoiseKnobs]) -> list[float]:
        from paintover.path.mdp import scaled, weights

        t_max, length = scaled(context.knobs.t_max, context.knobs.t_m, context.steps)
        return weights(context.steps, t_max, length, context.knobs.schedule)
