"""`mdp-guidance`: guided towards the picture's caption and the wanted one at once (MDP on the guidance)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paintover.editors.editor import Context
from paintover.editors.mdp_window import MDP, MDPKnobs
from paintover.editors.two_branch import Branches

if TYPE_CHECKING:
    from paintover.path.predict import Path


class MDPGuidance(MDP[MDPKnobs]):
    """From the inverted picture, guided towards source prompt and caption by their shares inside a window of steps.

    Wang et al. 2023, MDP-beta; methods.md F.2, F.3. Unlike mdp-noise it asks what the source prompt says of the edit's own
    latents, not of the source's.
    """

    name = "mdp-guidance"
    summary = "As mdp-noise, but the source prompt guides, not the picture's own noise. Wants --source-prompt."
    Knobs = MDPKnobs

    def branch(self, context: Context[MDPKnobs], branches: Branches) -> Path:
        from paintover.path.mdp import asked_both
        from paintover.path.walk import walk

        b = branches
        guide = asked_both(b.c_wanted, b.c_source, self.shares(context), self.toward(b), context.knobs.amplify)
        return walk(b.x_T, b.steps, guide, after=b.after)
