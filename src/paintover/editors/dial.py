"""UniTune's dial: one number between "as the words say" and "as the picture is" sets what a tuned model's edit depends on."""

from __future__ import annotations

from typing import NamedTuple


class Dial(NamedTuple):
    """guidance: towards the caption. left: how much of the picture's amplitude, sqrt(alpha_bar), the late start leaves.
    interpolation: how much of the source comes back where the edit changed little. share: of the tuned change of weights.
    """

    guidance: float
    left: float
    interpolation: float
    share: float


def dial(fidelity: float, usual: float) -> Dial:
    """The four along one curve, each of them monotone; fidelity 0 is expressive, 1 faithful. usual: the model's guidance.

        guidance      = usual * 1.5^(1 - 2 f), and 1 at least:  1.5 times the usual, the usual, two thirds of it
        left          = 0.4 f^1.75:                             0, 0.12, 0.4
        interpolation = min(1, 4 f):                            0, 1, 1
        share         = 0.4 + 0.6 f:                            0.4, 0.7, 1

    UniTune names the four and their directions (fewer tuning steps stand behind `share`, which is free after tuning); the
    curve is ours, chosen on scenes of the built-in world. The published recipe uses all of the tuning: share 1.
    """
    return Dial(
        guidance=round(max(1.0, usual * 1.5 ** (1 - 2 * fidelity)), 4),
        left=round(0.4 * fidelity**1.75, 6),
        interpolation=min(1.0, 4 * fidelity),
        share=round(0.4 + 0.6 * fidelity, 4),
    )
