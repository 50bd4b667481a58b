"""What an inversion is told."""

from __future__ import annotations

from dataclasses import dataclass

from paintover.path.predict import Condition


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """source: the condition of the picture's caption (of "" where there is none); null: that of no words, or of the negative
    prompt. guidance: the scale at which the edit will be walked. seed: of the noise, where an inversion draws some. inner:
    the most optimiser steps of null-text inversion at each step; iterations: the most corrections of fixed-point inversion.
    """

    source: Condition
    null: Condition
    guidance: float = 1.0
    seed: int = 0
    inner: int = 10
    iterations: int = 5
