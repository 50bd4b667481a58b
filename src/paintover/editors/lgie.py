"""`lgie`: as `mgie`, with a language model that does not see the picture (MGIE's baseline)."""

from __future__ import annotations

from paintover.editors.expressive import Expressive, ExpressiveKnobs


class LGIE(Expressive[ExpressiveKnobs]):
    """As `Expressive` says, the language model knowing the instruction alone."""

    name = "lgie"
    summary = "As mgie, but the language model does not see the picture: what words alone can work out."
    paper = "LGIE, the baseline of MGIE (Fu et al. 2024)"
    Knobs = ExpressiveKnobs
