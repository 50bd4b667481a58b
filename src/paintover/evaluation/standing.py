"""What the table over editors comes to: errors by group with their standard errors, costs, failures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from paintover.evaluation.edited import CODEC, NOTHING, Edited
from paintover.evaluation.metrics import psnr

REGIONS = ("inside", "outside", "whole")


def standing(outcomes: Sequence[Edited], columns: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """{"groups": {group: {column: row}}, "costs": {column: row}, "failures": {column: [lines]}}, as plain JSON.

    A row of a group has for each region the mean l1 and ssim to the true target and psnr (of the mean squared error), "cut"
    (what is taken off doing nothing's mean l1 inside the change: 1 is all of it) and "untouched". "se" beside a mean is its
    standard error over the scenes; that of "cut" is the paired difference's.
    """
    groups = list(dict.fromkeys(group for o in outcomes for group in o.scene.groups))
    found = {group: {name: _row(outcomes, name, group) for name in (NOTHING, CODEC, *columns)} for group in groups}
    costs = {name: _cost([o for o in outcomes if o.column == name], told["steps"]) for name, told in columns.items()}
    failures: dict[str, list[str]] = {}
    for o in outcomes:
        if o.failure is not None:
            failures.setdefault(o.column, []).append(f"scene {o.scene.n}: {o.failure}")
    return {"groups": found, "costs": costs, "failures": failures}


def gains(outcomes: Sequence[Edited], column: str, than: str, key: str, group: str = "all") -> list[float]:
    """By how much a column's error is lower than another's, scene by scene, where both are known."""
    mine, theirs = (_known(outcomes, name, key, group) for name in (column, than))
    return [theirs[n] - mine[n] for n in mine if n in theirs]


def mean_and_error(values: Iterable[float]) -> tuple[float, float]:
    """The mean, and its standard error; nan where there are too few values."""
    known = np.array(list(values))
    mean = float(known.mean()) if known.size else math.nan
    return mean, float(known.std(ddof=1) / math.sqrt(known.size)) if known.size > 1 else math.nan


def _known(outcomes: Sequence[Edited], column: str, key: str, group: str) -> dict[int, float]:
    mine = [o for o in outcomes if o.column == column and o.errors is not None and group in o.scene.groups]
    return {o.scene.n: o.errors[key] for o in mine if o.errors is not None and not math.isnan(o.errors[key])}


def _row(outcomes: Sequence[Edited], column: str, group: str) -> dict[str, Any]:
    mine = [o for o in outcomes if o.column == column and o.failure is None and group in o.scene.groups]
    row: dict[str, Any] = {"scenes": len(mine)}
    for region in REGIONS:
        for name in ("l1", "ssim"):
            mean, error = mean_and_error(_known(outcomes, column, f"{name}_{region}", group).values())
            row[f"{name}_{region}"], row[f"{name}_{region}_se"] = _plain(mean), _plain(error)
        squared, _ = mean_and_error(_known(outcomes, column, f"l2_{region}", group).values())
        row[f"psnr_{region}"] = _plain(psnr(squared))
    gain, error = mean_and_error(gains(outcomes, column, NOTHING, "l1_inside", group))
    idle, _ = mean_and_error(_known(outcomes, NOTHING, "l1_inside", group).values())
    row["cut"], row["cut_se"] = (_plain(gain / idle), _plain(error / idle)) if idle else (None, None)
    row["untouched"] = _plain(mean_and_error(o.untouched for o in mine if not math.isnan(o.untouched))[0])
    return row


def _cost(mine: Sequence[Edited], steps: int | None) -> dict[str, Any]:
    """Means over the timed scenes; None where none was timed. per_step: evaluations of a warm edit, by the steps asked for."""
    timed = [o.cost for o in mine if o.cost]
    row: dict[str, Any] = {"timed": len(timed)}
    for when in ("cold", "warm"):
        row[f"evaluations_{when}"] = _plain(mean_and_error(cost[when]["evaluations"] for cost in timed)[0])
        mean, error = mean_and_error(cost[when]["seconds"] for cost in timed)
        row[f"seconds_{when}"], row[f"seconds_{when}_se"] = _plain(mean), _plain(error)
    warm = row["evaluations_warm"]
    row["per_step"] = round(warm / steps, 2) if warm is not None and steps else None
    return row


def _plain(value: float) -> float | None:
    """Rounded for the report; None where there is no value."""
    return round(value, 5) if math.isfinite(value) else None
