"""What each turn of a dial costs the picture and brings the words, and the papers' claims about that, checked.

A method is measured at some values of its dial on the same scenes. Per scene: `outside`, L1 to the source where the true edit
changes nothing; `kept_ssim`, structural similarity to the source inside the things that stay; `gain`, by how much it is
nearer to the true target inside the change than doing nothing is. One dial setting serves all scenes, so the curve of a
method runs through the means of its settings, and begins at "doing nothing"; between two settings it is a straight line (of
every scene's measures likewise, so that two methods can be compared scene by scene). At an equal level of one measure, two
methods' other measures are compared; a difference counts from two standard errors of the paired difference on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paintover.evaluation.standing import mean_and_error

LEVELS = (0.01, 0.02, 0.03, 0.05, 0.08)  # L1 outside, set beforehand: 2.5 to 20 of 255 grey levels
MEASURES = ("outside", "gain", "kept_l1", "kept_ssim", "target_l1")
ERRORS = 2  # standard errors that a difference must be larger than

Values = NDArray[np.float64]  # one for each scene


@dataclass(frozen=True, eq=False)
class Curve:
    """A method: its dial's V settings in order, each measure's values_VN of N scenes, the idle error that cuts are of."""

    method: str
    settings: tuple[float, ...]
    measured: Mapping[str, Values]  # V x N
    idle: float

    def points(self, measure: str) -> Values:
        """Values (V + 1) x N: doing nothing, then each setting."""
        values_VN = self.measured[measure]
        nothing = {"kept_ssim": 1.0, "target_l1": self.idle}.get(measure, 0.0)
        return np.concatenate([np.full((1, values_VN.shape[1]), nothing), values_VN])

    def best_within(self, outside: float) -> Values | None:
        """The gains_N at the setting (or between two neighbours) that gains most with no more L1 outside than this."""
        far, gain = self.points("outside"), self.points("gain")
        found = [gain[v] for v in range(len(far)) if far[v].mean() <= outside]
        found += [_between(gain, v, w) for v, w in _crossings(far.mean(axis=1), outside)]
        return max(found, key=lambda values: float(values.mean()), default=None)

    def at_gain(self, cut: float, measure: str) -> Values | None:
        """A measure's values_N where the mean gain first comes to this share of the idle error; None where it never does."""
        crossings = _crossings(self.points("gain").mean(axis=1), cut * self.idle)
        return _between(self.points(measure), *crossings[0]) if crossings else None

    def most(self) -> float:
        """The largest share of the idle error that any setting takes off."""
        return float(self.points("gain").mean(axis=1).max() / self.idle)


def _crossings(means: Values, level: float) -> list[tuple[int, float]]:
    """(v, w): the line between points v and v + 1 meets the level at w of its length."""
    found = []
    for v, (a, b) in enumerate(pairwise(means)):
        if a != b and min(a, b) <= level <= max(a, b):
            found.append((v, float((level - a) / (b - a))))
    return found


def _between(points: Values, v: int, w: float) -> Values:
    return (1 - w) * points[v] + w * points[v + 1]


def found(curves: Mapping[str, Curve]) -> dict[str, Any]:
    """{"curves": {method: [a row a setting]}, "equal": {method: [a row a level]}}, as plain JSON."""
    rows = {name: [_row(curve, v) for v in range(len(curve.settings))] for name, curve in curves.items()}
    return {"curves": rows, "equal": {name: [_level(curve, level) for level in LEVELS] for name, curve in curves.items()}}


def _row(curve: Curve, v: int) -> dict[str, Any]:
    row: dict[str, Any] = {"value": curve.settings[v]}
    for measure in MEASURES:
        row[measure], row[f"{measure}_se"] = map(plain, mean_and_error(curve.measured[measure][v]))
    cut, error = mean_and_error(curve.measured["gain"][v])
    return row | {"cut": plain(cut / curve.idle), "cut_se": plain(error / curve.idle)}


def _level(curve: Curve, level: float) -> dict[str, Any]:
    gains = curve.best_within(level)
    assert gains is not None, "doing nothing is within every level"
    mean, error = mean_and_error(gains)
    return {"outside": level, "cut": plain(mean / curve.idle), "cut_se": plain(error / curve.idle)}


def difference(a: Values, b: Values) -> dict[str, Any]:
    """a - b over the scenes; "says": "more", "less", or "level" below two standard errors."""
    mean, error = mean_and_error(a - b)
    apart = abs(mean) > ERRORS * error
    return {"difference": plain(mean), "se": plain(error), "says": ("more" if mean > 0 else "less") if apart else "level"}


def expressiveness(a: Curve, b: Curve) -> dict[str, Any]:
    """By how much a takes more off than b at equal fidelity: the mean over LEVELS, as a share of the idle error."""
    gains = [[curve.best_within(level) for level in LEVELS] for curve in (a, b)]
    mine, theirs = (np.mean([g for g in of if g is not None], axis=0) / a.idle for of in gains)
    return difference(mine, theirs)


def fidelity(a: Curve, b: Curve, measure: str) -> dict[str, Any] | None:
    """a's measure against b's at equal expressiveness, half of the most that both come to; None where one comes to nothing."""
    level = min(a.most(), b.most()) / 2
    mine, theirs = a.at_gain(level, measure), b.at_gain(level, measure)
    if level <= 0 or mine is None or theirs is None:
        return None
    return {"cut": plain(level), **difference(mine, theirs)}


def plain(value: float) -> float | None:
    """Rounded for the report; None where there is no value."""
    return round(value, 5) if math.isfinite(value) else None
