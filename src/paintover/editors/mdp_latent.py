"""`mdp-latent`: drawn back to the picture's own latents for a while, then the words (MDP on the latents)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paintover.editors.editor import Context
from paintover.editors.mdp_window import MDP, MDPKnobs
from paintover.editors.two_branch import Branches

if TYPE_CHECKING:
    from paintover.path.predict import Path


class MDPLatent(MDP[MDPKnobs]):
    """From the inverted picture, told a caption, its latents mixed with the source's inside a window of steps.

    Wang et al. 2023, MDP-x_t; methods.md F.2, F.3. Where the share is 1 nothing before it has an effect, and is not computed.
    """

    name = "mdp-latent"
    summary = "As mdp-noise, but the pictures in the making are mixed: keeps more of the source."
    Knobs = MDPKnobs

    def branch(self, context: Context[MDPKnobs], branches: Branches) -> Path:
        from paintover.path.mdp import Returned, latents
        from paintover.path.walk import walk

        shares, record = self.shares(context), branches.source.record
        after = latents(record, shares, branches.after, context.knobs.amplify)
        return walk(branches.x_T, branches.steps, Returned(branches.wanted, record, shares), after=after)

    def told_of(self, shares: list[float]) -> str | None:
        """Of the last step, whose share is that of the picture itself, and else as of the others."""
        if shares[-1] == 1:
            return "the window reaches the last step, which returns the picture whatever the words say; use a smaller t_m"
        if shares[-1]:
            return f"the window reaches the last step, which mixes the picture itself into the result (share {shares[-1]:g})"
        return super().told_of(shares)
