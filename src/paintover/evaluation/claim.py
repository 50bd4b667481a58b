"""MDP's published claim, checked: of its four forms the noise's is the best overall, and each can edit locally and globally.

Wang et al. 2023 show it on pictures. Here it is put in numbers, defined before any was seen: a form is *usable* for an extent
(local, global) where its error inside the change is lower than doing nothing's by more than two standard errors of that
difference over the scenes. It is *best overall* where its error over whole pictures, of all scenes, is the lowest of the
four; a difference of less than two standard errors is called a tie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from paintover.evaluation.columns import FOUR, NULL_TEXT
from paintover.evaluation.edited import NOTHING, Edited
from paintover.evaluation.standing import gains, mean_and_error

EXTENTS = ("local", "global")
ERRORS = 2  # standard errors that a difference must be larger than


def check(outcomes: Sequence[Edited]) -> list[dict[str, Any]]:
    """The finding for each way of inverting that all four were run with, as plain JSON; "says" is its two sentences."""
    done = {o.column for o in outcomes if o.errors is not None}
    if min(sum(o.column == NOTHING and extent in o.scene.groups for o in outcomes) for extent in EXTENTS) < 2:
        return []  # no standard errors
    families = {"the default": "", "null-text": NULL_TEXT}
    found = []
    for inversion, suffix in families.items():
        names = [name + suffix for name in FOUR]
        if done.issuperset(names):
            found.append({"inversion": inversion, **_check(outcomes, names)})
    return found


def _check(outcomes: Sequence[Edited], names: list[str]) -> dict[str, Any]:
    forms = {name: {extent: _extent(outcomes, name, extent) for extent in EXTENTS} for name in names}
    for extent in EXTENTS:
        order = sorted(names, key=lambda name: forms[name][extent]["l1_inside"])
        for rank, name in enumerate(order, 1):
            forms[name][extent]["rank"] = rank
    whole = {name: mean_and_error(_values(outcomes, name, "l1_whole", "all"))[0] for name in names}
    order = sorted(names, key=lambda name: whole[name])
    noise = names[0]
    versus = {
        name: dict(zip(("gain", "se"), map(_plain, mean_and_error(gains(outcomes, noise, name, "l1_whole"))), strict=True))
        for name in names[1:]
    }
    return {
        "forms": forms,
        "l1_whole": {name: _plain(whole[name]) for name in order},
        "noise_against": versus,
        "says": [_usable(forms), _best(noise, order, versus)],
    }


def _extent(outcomes: Sequence[Edited], name: str, extent: str) -> dict[str, Any]:
    gain, error = mean_and_error(gains(outcomes, name, NOTHING, "l1_inside", extent))
    idle, _ = mean_and_error(_values(outcomes, NOTHING, "l1_inside", extent))
    inside, _ = mean_and_error(_values(outcomes, name, "l1_inside", extent))
    outside, _ = mean_and_error(_values(outcomes, name, "l1_outside", extent))
    return {
        "cut": _plain(gain / idle),
        "cut_se": _plain(error / idle),
        "l1_inside": _plain(inside),
        "l1_outside": _plain(outside),
        "usable": bool(gain > ERRORS * error),
    }


def _values(outcomes: Sequence[Edited], name: str, key: str, group: str) -> list[float]:
    mine = [o for o in outcomes if o.column == name and o.errors is not None and group in o.scene.groups]
    return [o.errors[key] for o in mine if o.errors is not None and not math.isnan(o.errors[key])]


def _usable(forms: dict[str, dict[str, Any]]) -> str:
    said = [f"{extent}: {', '.join(n for n in forms if forms[n][extent]['usable']) or 'none'}" for extent in EXTENTS]
    whole = all(form[extent]["usable"] for form in forms.values() for extent in EXTENTS)
    return f"Each of the four usable for both: {'yes' if whole else 'no'} (usable, {'; '.join(said)})."


def _best(noise: str, order: list[str], versus: dict[str, dict[str, Any]]) -> str:
    told = "; ".join(f"{name} {'+' if v['gain'] > 0 else ''}{v['gain']:.4f} ± {v['se']:.4f}" for name, v in versus.items())
    better = [name for name, v in versus.items() if v["gain"] < -ERRORS * v["se"]]
    level = [name for name, v in versus.items() if abs(v["gain"]) <= ERRORS * v["se"]]
    if better:
        verdict = f"no: {', '.join(better)} better"
    elif level:
        verdict = f"not told apart from {', '.join(level)}" + ("" if order[0] == noise else f" (lowest: {order[0]})")
    else:
        verdict = "yes"
    return f"{noise} best overall: {verdict} (error over whole pictures, how much lower than the others': {told})."


def _plain(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None
