"""Values of many cases under several seeds: means, errors over the cases, spread over the seeds, and paired differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paintover.evaluation.standing import mean_and_error

ERRORS = 2  # standard errors that a difference must be larger than
# What is better when it is less.
LESS = frozenset({"l1", "l1_inside", "l1_outside", "hallucinated"})

Values = NDArray[np.float64]  # _NS: a row a case, a column a seed; nan where there is no value


def by_case(values_NS: Values) -> Values:
    """The mean of each case over the seeds for which it has a value; nan where it has none."""
    known = ~np.isnan(values_NS)
    counts = known.sum(axis=1)
    sums = np.where(known, values_NS, 0).sum(axis=1)
    return np.divide(sums, counts, out=np.full(len(sums), math.nan), where=counts > 0)


def row(values_NS: Values) -> dict[str, Any]:
    """mean over the cases, se: its standard error over them; spread: of the means of the single seeds (standard deviation)."""
    mine = by_case(values_NS)
    mean, error = mean_and_error(mine[~np.isnan(mine)])
    seeds = by_case(values_NS.T)
    spread = float(seeds.std(ddof=1)) if values_NS.shape[1] > 1 else math.nan
    return {"mean": plain(mean), "se": plain(error), "spread": plain(spread), "cases": int((~np.isnan(mine)).sum())}


def difference(name: str, mine_NS: Values, theirs_NS: Values) -> dict[str, Any]:
    """Mine - theirs, case by case: won or lost where it is more than ERRORS standard errors from nothing."""
    each = by_case(mine_NS) - by_case(theirs_NS)
    mean, error = mean_and_error(each[~np.isnan(each)])
    better = -mean if name in LESS else mean
    bound = ERRORS * error
    told = "won" if better > bound else "lost" if -better > bound else "not told apart"  # nan: neither
    return {"measure": name, "mean": plain(mean), "two_se": plain(bound), "says": told}


def plain(value: float) -> float | None:
    """Rounded for the report; None where there is no value."""
    return round(float(value), 5) if math.isfinite(value) else None
