"""How good a candidate is: how well it agrees with the words, and how well it keeps what lies outside of the edit.

    score = agreement - weight * (1 - preservation)

agreement: cos(result, words) - cos(source, words): how much nearer to the words the edit has brought the picture; of a picture
that is made from words alone, cos(result, words). preservation: 1 - the mean absolute difference (0..1) between what the model
painted and the codec's picture of the source, before pixels are put back, outside of the mask; without a mask, outside of what
the candidates changed, in the median. Doing nothing scores 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paintover import picture as pictures
from paintover.orders.work import Made, Work

Plane = NDArray[np.float16]
_LEAST = 0.01  # of the picture that must lie outside of the edit, for it to be measured


@dataclass(frozen=True, slots=True)
class Scored:
    """One candidate. failed: why there is none of this seed; then it has no scores.

    preservation: None where no source was given, or nothing of it lies outside of the edit.
    """

    seed: int
    score: float = float("-inf")
    agreement: float = float("nan")
    preservation: float | None = None
    failed: str | None = None

    def record(self) -> dict[str, Any]:
        if self.failed is not None:
            return {"seed": self.seed, "failed": self.failed}
        kept = None if self.preservation is None else round(self.preservation, 5)
        return {"seed": self.seed, "score": round(self.score, 5), "agreement": round(self.agreement, 5), "preservation": kept}


@dataclass(frozen=True, slots=True, eq=False)
class Painted:
    """What the model painted, at the working size: moved_hw, its mean absolute difference to the source, and inside_hw, where
    it may have been meant to (0..1). Half as precise as it was computed, since there are many."""

    moved_hw: Plane
    inside_hw: Plane


def painted(work: Work, made: Made) -> Painted | None:
    """What is to be measured of a candidate; None where no source was given."""
    if work.reconstruction_hwC is None:
        return None
    crop = work.geometry.crop
    edited_hwC, source_hwC = crop(made.edited_hwC), crop(work.reconstruction_hwC)
    if work.checked.mask_HW is not None:
        inside_hw = crop(work.geometry.apply(work.checked.mask_HW[:, :, None]))[:, :, 0]
    else:
        inside_hw = pictures.changed(edited_hwC, source_hwC)
    moved_hw = np.abs(edited_hwC - source_hwC).mean(axis=2)
    return Painted(moved_hw.astype(np.float16), np.clip(inside_hw, 0, 1).astype(np.float16))


def preservations(candidates: Sequence[Painted]) -> list[float | None]:
    """Of each candidate of one source, outside of the same place: the median of what they changed."""
    if not candidates:
        return []
    outside_hw = 1 - np.median(np.stack([one.inside_hw for one in candidates]), axis=0).astype(np.float64)
    if outside_hw.mean() < _LEAST:
        return [None] * len(candidates)
    return [1 - float((one.moved_hw * outside_hw).sum() / outside_hw.sum()) for one in candidates]


def score(agreement: float, preservation: float | None, weight: float) -> float:
    return agreement if preservation is None else agreement - weight * (1 - preservation)


def best_of(candidates: Sequence[Scored]) -> int:
    """The place of the best one; of several, the first."""
    return max(range(len(candidates)), key=lambda n: (candidates[n].score, -n))


def why(candidates: Sequence[Scored], best: Scored) -> str:
    """Why it is the best, in words."""
    others = [one for one in candidates if one.failed is None and one is not best]
    if not others:
        return "it is the only one" if len(candidates) == 1 else "no other seed gave a picture"
    nearest = all(best.agreement >= one.agreement for one in others)
    if best.preservation is None:
        return "it agrees best with the words"
    kept = best.preservation
    keeps = all(one.preservation is None or kept >= one.preservation for one in others)
    if nearest and keeps:
        return "it agrees best with the words, and keeps the rest of the picture best"
    if nearest:
        return "it agrees best with the words, by more than others keep more of the rest of the picture"
    if keeps:
        return "it keeps the rest of the picture best, by more than others agree better with the words"
    return "it is the best of both together: agreement with the words, and what it keeps of the rest of the picture"
