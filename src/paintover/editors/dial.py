"""UniTune's dial: one number between "as the words say" and "as the picture is" sets what a tuned model's edit depends on."""

from __future__ import annotations

from typing import NamedTuple


class Dial(NamedTuple):
    """guidance: towards the caption. strength: of the late start, in Stable Diffusion's schedule; what it is in another one,
    `path.start.equal_start` says. interpolation: how much of the source comes back where the edit changed little. share: of
    the tuned change of the weights."""

    guidance: float
    strength: float
    interpolation: float
    share: float


def dial(fidelity: float, usual: float) -> Dial:
    """The four along one curve, each of them monotone; fidelity 0 is expressive, 1 faithful. usual: the model's guidance.

        guidance      = usual * 2^(1 - 2 f), and 1 at least:  twice the usual, the usual, half of it
        strength      = 1 - 0.4 f^2:                          1, 0.9, 0.6
        interpolation = min(1, 2 f):                          0, 1, 1
        share         = min(1, 0.5 + f):                      0.5, 1, 1

    At 0.5 that is the published recipe. UniTune names the four and their directions (fewer tuning steps stand behind
    `share`, which is free after tuning); the curve is ours.
    """
    return Dial(
        guidance=round(max(1.0, usual * 2 ** (1 - 2 * fidelity)), 4),
        strength=round(1 - 0.4 * fidelity**2, 4),
        interpolation=min(1.0, 2 * fidelity),
        share=min(1.0, 0.5 + fidelity),
    )
