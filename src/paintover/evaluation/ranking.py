"""Which cases to show: the best and the worst of each kind; and them all on one sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from paintover.evaluation.scenes import Outcome

_SIDE = 96  # px of a picture on the sheet


def rank(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """The outcomes of each kind, best first."""
    kinds = list(dict.fromkeys(o.kind for o in outcomes))
    return {kind: sorted((o for o in outcomes if o.kind == kind), key=remaining) for kind in kinds}


def remaining(outcome: Outcome) -> float:
    """The share of doing nothing's error that is left inside the change; of a case without a change, its error."""
    edit, nothing = outcome.errors["edit"], outcome.errors["nothing"]
    inside = nothing["l1_inside"]
    return edit["l1_outside"] if math.isnan(inside) or inside == 0 else edit["l1_inside"] / inside


def ends(outcomes: Sequence[Outcome], each: int) -> list[tuple[str, Outcome]]:
    """Up to `each` best and `each` worst, none of them twice."""
    best = outcomes[: min(each, math.ceil(len(outcomes) / 2))]
    worst = outcomes[len(best) :][-each:]
    return [("best", o) for o in best] + [("worst", o) for o in reversed(worst)]


def sheet(ranked: dict[str, list[Outcome]]) -> NDArray[np.uint8]:
    """One picture, HWC: a row a kind, its best and its worst case, each as source, true target and edited."""
    font, text, gap = ImageFont.load_default(12), 20, 8
    width, height = 110 + 2 * (3 * _SIDE + 3 * gap), _SIDE + text + gap
    canvas = Image.new("RGB", (width, 24 + len(ranked) * height), "white")
    draw = ImageDraw.Draw(canvas)
    for column in range(2):
        for j, name in enumerate(("source", "true target", "edited")):
            draw.text((110 + column * (3 * _SIDE + 3 * gap) + j * (_SIDE + 2), 6), name, "black", font)
    for i, (kind, outcomes) in enumerate(ranked.items()):
        top = 24 + i * height
        draw.text((8, top + _SIDE // 2), kind, "black", font)
        for column, (end, outcome) in enumerate(ends(outcomes, 1)):
            left = 110 + column * (3 * _SIDE + 3 * gap)
            for j, pixels in enumerate((outcome.source, outcome.target, outcome.edited)):
                shown = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
                canvas.paste(shown, (left + j * (_SIDE + 2), top))
            draw.text((left, top + _SIDE + 2), f"{end}: {outcome.instruction}"[:48], "black", font)
    return np.asarray(canvas)
