"""`mdp-noise`: follow the picture's own path for a while, then the words (MDP on the predicted noise)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paintover.editors.editor import Context
from paintover.editors.mdp_window import MDP, MDPKnobs
from paintover.editors.two_branch import Branches

if TYPE_CHECKING:
    from paintover.path.predict import Path


class MDPNoise(MDP[MDPKnobs]):
    """From the inverted picture, told a caption, borrowing the noise of the source's walk inside a window of steps.

    Wang et al. 2023, MDP-eps_t; methods.md F.2, F.3.
    """

    name = "mdp-noise"
    summary = "Describe the picture you want; the layout follows the source. Helped by --source-prompt."
    Knobs = MDPKnobs

    def branch(self, context: Context[MDPKnobs], branches: Branches) -> Path:
        from paintover.path.mdp import Borrowed
        from paintover.path.walk import walk

        guide = Borrowed(branches.wanted, branches.source.record, self.shares(context), context.knobs.amplify)
        return walk(branches.x_T, branches.steps, guide, after=branches.after)
