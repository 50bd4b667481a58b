"""One scene, and what an editor made of it: what the table over editors is a table of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paintover.evaluation.captioned import Captioned
from paintover.evaluation.compare import Errors, Picture, errors

NOTHING, CODEC = "doing nothing", "codec alone"  # columns that are no editors


@dataclass(frozen=True, eq=False)
class Scene:
    """A case as it is edited: uint8 pictures HWC, and what the true edit changes."""

    n: int
    about: Captioned
    source: Picture
    target: Picture
    inside: NDArray[np.bool_]

    @property
    def groups(self) -> list[str]:
        """What its results are averaged in."""
        series, extent = self.about.series, self.about.extent
        return ["all", extent, series, f"{series}, {extent}", self.about.case.kind]

    def errors(self, picture: Picture) -> Errors:
        return errors(picture, self.target, {"inside": self.inside, "outside": ~self.inside, "whole": None})


@dataclass(frozen=True, eq=False)
class Edited:
    """One scene in one column: the picture, its errors and costs; or why it failed.

    cost: {"cold": {"evaluations", "seconds"}, "warm": likewise} where it was timed.
    """

    column: str
    scene: Scene
    pixels: Picture | None = None
    errors: Errors | None = None
    untouched: float = 0.0
    cost: dict[str, dict[str, float]] | None = None
    failure: str | None = None
