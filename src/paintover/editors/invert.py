"""`invert`: the edit that changes nothing, which shows what an inversion holds. Asked for by `paintover invert` and `redo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paintover.editors.editor import Context
from paintover.editors.two_branch import Branches, TwoBranch, TwoBranchKnobs

if TYPE_CHECKING:
    from paintover.path.predict import Path


class Invert(TwoBranch[TwoBranchKnobs]):
    """The source branch itself, or, where nothing holds it, its guided walk from x_T."""

    name = "invert"
    summary = "What an inversion makes of the picture."
    paper = "see docs/inversion.md"
    steps = 50
    told = "nothing"
    picture = "needed"
    hidden = True
    Knobs = TwoBranchKnobs

    def branch(self, context: Context[TwoBranchKnobs], branches: Branches) -> Path:
        from paintover.path.inversion import INVERSIONS
        from paintover.path.walk import walk

        guide = branches.guide(branches.c_source)
        if INVERSIONS[context.knobs.inversion].free and context.knobs.guidance != 1:
            return walk(branches.x_T, branches.steps, guide, after=branches.after)
        return walk(branches.source.record.x[-1], [], guide)
