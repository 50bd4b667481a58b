"""Inversions: from a picture's latents to the walk that leads to them. One signature, one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from paintover.path.inversion.ddim import ddim, direct
from paintover.path.inversion.edit_friendly import edit_friendly
from paintover.path.inversion.fixed_point import fixed_point
from paintover.path.inversion.negative import negative_prompt
from paintover.path.inversion.null_text import null_text
from paintover.path.inversion.told import Told
from paintover.path.predict import Condition
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
    knobs:  what else of `Told` it depends on, and of the knobs of the same name.
    free:   whether nothing holds its walk back to the picture, so that guidance carries it off.
    """

    invert: Callable[[Tensor, Sequence[Step], Told], Inverting]
    summary: str
    paper: str
    eta: float = 0.0
    guided: bool = False
    random: bool = False
    knobs: tuple[str, ...] = ()
    free: bool = False

    def told(self, source: Condition, null: Condition, guidance: float, seed: int, settings: Mapping[str, Any]) -> Told:
        """What it is told: of the `settings` only those that it depends on."""
        return Told(source, null, guidance=guidance, seed=seed, **{knob: settings[knob] for knob in self.knobs})


INVERSIONS: dict[str, Inversion] = {
    "direct": Inversion(
        direct, "the inversion's own latents, replayed: exact, at no further cost", "Direct Inversion (Ju et al. 2023)"
    ),
    "ddim": Inversion(ddim, "up to the noise and down again, unguided: approximate", "DDIM (Song et al. 2021)", free=True),
    "fixed-point": Inversion(
        fixed_point,
        "each step up solved for the step down, by iteration; replayed",
        "ReNoise (Garibi et al. 2024), AIDI (Pan et al. 2023)",
        knobs=("iterations",),
    ),
    "negative-prompt": Inversion(
        negative_prompt, "the source prompt is what guidance is held against", "Negative-prompt inversion (Miyake et al. 2023)"
    ),
    "null-text": Inversion(
        null_text,
        "a null for each step, optimised until the guided walk comes back: slow",
        "Null-text inversion (Mokady et al. 2023)",
        guided=True,
        knobs=("inner",),
    ),
    "edit-friendly": Inversion(
        edit_friendly,
        "noise maps that lead a DDPM walk through the noised picture: exact",
        "Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2024)",
        eta=1.0,
        guided=True,
        random=True,
    ),
}
