"""`mdp-condition`: told a mix of the picture's caption and the wanted one for a while (MDP on the condition)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paintover.editors.editor import Context
from paintover.editors.mdp_window import MDP, MDPKnobs
from paintover.editors.two_branch import Branches

if TYPE_CHECKING:
    from paintover.path.predict import Path


class MDPCondition(MDP[MDPKnobs]):
    """From the inverted picture, told the source prompt inside a window of steps, or between it and the caption.

    Wang et al. 2023, MDP-c; methods.md F.2, F.3.
    """

    name = "mdp-condition"
    summary = "As mdp-noise, but only the words are mixed: a larger change. Wants --source-prompt."
    Knobs = MDPKnobs

    def branch(self, context: Context[MDPKnobs], branches: Branches) -> Path:
        from paintover.path.mdp import told_both
        from paintover.path.walk import walk

        b = branches
        guide = told_both(b.c_wanted, b.c_source, self.shares(context), self.toward(b), context.knobs.amplify)
        return walk(b.x_T, b.steps, guide, after=b.after)
