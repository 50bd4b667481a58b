"""The benchmark's table: what the cases of a kind come to, beside doing nothing and the codec alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from paintover.evaluation.metrics import psnr
from paintover.scenes import edits
from paintover.scenes.looks import LOOKS

if TYPE_CHECKING:
    from paintover.evaluation.scenes import Outcome

METHODS = ("edit", "nothing", "codec")


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """A row for each kind, and for "local" (remove, replace, recolour, add), "looks" and "all".

    For each method and region: the mean l1 and ssim to the true target, and psnr (dB, of the mean squared error; None where
    the pictures are equal). `cut` is what the edit takes off doing nothing's mean l1 inside the change (1: all of it, 0: no
    better, negative: worse). Kinds without a change ("nothing") have no inside, those that change everything no outside.
    """
    kinds = list(dict.fromkeys(o.kind for o in outcomes))
    groups = {kind: [o for o in outcomes if o.kind == kind] for kind in kinds}
    groups["local"] = [o for o in outcomes if o.kind in edits.LOCAL]
    groups["looks"] = [o for o in outcomes if o.kind in LOOKS]
    groups["all"] = list(outcomes)
    return {"count": len(outcomes), "kinds": {name: _row(group) for name, group in groups.items() if group}}


def _row(outcomes: list[Outcome]) -> dict[str, Any]:
    row: dict[str, Any] = {"cases": len(outcomes)}
    for method in METHODS:
        mean = {key: _mean(o.errors[method][key] for o in outcomes) for key in outcomes[0].errors[method]}
        row[method] = {
            f"{name}_{region}": _plain(psnr(mean[f"l2_{region}"]) if name == "psnr" else mean[f"{name}_{region}"])
            for region in ("inside", "outside")
            for name in ("l1", "psnr", "ssim")
        }
    inside, nothing = row["edit"]["l1_inside"], row["nothing"]["l1_inside"]
    row["cut"] = round(1 - inside / nothing, 4) if inside is not None and nothing else None
    row["untouched"] = _plain(_mean(o.untouched for o in outcomes))
    row["evaluations"] = _plain(_mean(o.evaluations for o in outcomes))
    return row


def _mean(values: Iterable[float]) -> float:
    """Of those that are known; nan if none is."""
    known = [v for v in values if not math.isnan(v)]
    return float(np.mean(known)) if known else math.nan


def _plain(value: float) -> float | None:
    """Rounded for the report; None where there is no value."""
    return round(value, 5) if math.isfinite(value) else None
