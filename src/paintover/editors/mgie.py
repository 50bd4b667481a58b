"""`mgie`: a language model looks at the picture and says in full what the instruction means; that is painted (MGIE)."""

from __future__ import annotations

from pydantic import Field

from paintover.editors.expressive import Expressive, ExpressiveKnobs


class MGIEKnobs(ExpressiveKnobs):
    vision: bool = Field(True, description="whether the language model sees the picture (false: lgie)")

    @property
    def sees(self) -> bool:
        return self.vision


class MGIE(Expressive[MGIEKnobs]):
    """As `Expressive` says, the language model being shown the picture."""

    name = "mgie"
    summary = 'Say briefly what you want, "make it healthier"; a model that sees the picture works out what that means.'
    paper = "MGIE (Fu et al. 2024)"
    Knobs = MGIEKnobs
