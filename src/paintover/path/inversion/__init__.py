"""Inversions: from a picture's latents to the walk that leads to them. One signature, one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from paintover.path.inversion.ddim import ddim, direct
from paintover.path.inversion.told import Told
from paintover.path.schedule import Step
from paintover.path.source import Inverting

__all__ = ["INVERSIONS", "Inversion", "Told"]


@dataclass(frozen=True, slots=True)
class Inversion:
    """One way to invert.

    invert: (x0_BCHW, steps, told) -> Inverting, from the scaled latents, over the steps of the walk back.
    eta:    of the steps that it needs: 0 is DDIM, 1 is DDPM.
    guided: whether its result depends on the guidance scale and the null condition, so that others invert anew.
    random: whether its result depends on the seed.
    """

    invert: Callable[[Tensor, Sequence[Step], Told], Inverting]
    summary: str
    paper: str
    eta: float = 0.0
    guided: bool = False
    random: bool = False


INVERSIONS: dict[str, Inversion] = {
    "direct": Inversion(
        direct, "the inversion's own latents, replayed: exact, at no further cost", "Direct Inversion (Ju et al. 2023)"
    ),
    "ddim": Inversion(ddim, "up to the noise and down again, unguided: approximate", "DDIM (Song et al. 2021)"),
}
