"""Does choosing help? The best of several candidates against the first, where the true target is known.

The way of a request is the product's own: each case is edited with `--candidates` and all candidates are kept, which are then
compared with the truth. Beside what the score chooses, under several weights of preservation, stand the first seed, the mean of
all seeds (choosing blindly), and the candidate nearest to the truth (nobody can choose better).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paintover import __version__
from paintover import picture as pictures
from paintover.engine.cache import PrepareCache
from paintover.errors import RequestError
from paintover.evaluation.compare import as_uint8
from paintover.evaluation.kept import Kept
from paintover.evaluation.metrics import l1
from paintover.evaluation.paired import difference, row
from paintover.evaluation.scenes import cases, words
from paintover.evaluation.tables import Listing
from paintover.models.bundle import load
from paintover.models.scorer import load_scorer
from paintover.orders.code import code
from paintover.orders.order import Order, beside, check, request_for, resolve
from paintover.orders.run import edit_many
from paintover.orders.scores import score
from paintover.orders.sentinel import Sentinel
from paintover.picture import provenance
from paintover.request import EditResult
from paintover.scenes import edits
from paintover.scenes.assets import Assets
from paintover.scenes.looks import LOOKS

WEIGHTS = (0.0, 0.3, 1.0, 3.0)
MEASURES = ("l1_inside", "l1_outside", "l1")


@dataclass(frozen=True, eq=False)
class Measured:
    """One case: values_N by measure of its N candidates, and each one's agreement and preservation, as they were scored."""

    n: int
    kind: str
    values: dict[str, NDArray[np.float64]]
    scores: list[tuple[float, float | None]]

    def chosen(self, weight: float) -> int:
        """Whom this weight takes; of equal ones, the first."""
        return int(np.argmax([score(agreement, kept, weight) for agreement, kept in self.scores]))


def run(
    root: Path,
    photos: Path | None,
    *,
    out: Path,
    model: str = "builtin",
    editor: str = "instruct",
    scorer: str | None = None,
    candidates: int = 8,
    weights: Sequence[float] = WEIGHTS,
    count: int = 96,
    size: int | None = None,
    seed: int = 1,
    steps: int | None = None,
    force: bool = False,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Edits `count` held-out cases, each with `candidates` seeds, and returns the report as plain JSON, which is in `out` too.

    Each case is kept as it is finished, and a run that was interrupted goes on where it was; a folder of another run is
    refused, or emptied with `force`. Raises PaintoverError, and what the editor raises.
    """
    if candidates < 2:
        raise RequestError(f"candidates is {candidates}; there is nothing to choose from: ask for 2 or more")
    sentinels = [Sentinel.asked(candidates, None, scorer, weight, True) for weight in weights]
    if not sentinels:
        raise RequestError("say under which weights of preservation to choose, for example 0,1")
    began = time.perf_counter()
    assets = Assets(root, "held_out", photos)
    bundle = load(model, device=device)
    judge = load_scorer(scorer, bundle)
    size = size or bundle.size
    chosen = list(cases(assets, count, seed))
    rendered = [(as_uint8(source), as_uint8(target)) for source, target in (case.render(size) for case in chosen)]

    def order(n: int, file: Path | None) -> Order:
        request = request_for(**words(chosen[n], editor), editor=editor, model=model, seed=n * candidates, steps=steps)
        return Order(request, rendered[n][0], out=file, force=True, sentinel=sentinels[0] if file is not None else None)

    request, _ = resolve(check(order(0, None)), bundle)
    about = {
        "model": model, "fingerprint": bundle.fingerprint, "editor": editor, "knobs": request.knobs, "steps": request.steps,
        "scorer": judge.name, "scorer_fingerprint": judge.fingerprint, "candidates": candidates, "size": size, "seed": seed,
        "world": assets.fingerprint, "paintover": __version__, "code": code("scenes"),
    }  # fmt: skip
    kept = Kept(out, about, force)
    files = {n: kept.cases / f"{n:05d}.png" for n in range(count)}
    last = f"candidate {candidates}"  # it takes its place after all others
    missing = [n for n in files if kept.get(n) is None or not beside(files[n], last).exists()]
    if progress and len(missing) < count:
        progress(count - len(missing), count)
    orders = [order(n, files[n]) for n in missing]
    for done, outcome in enumerate(edit_many(orders, cache=PrepareCache(max_bytes=0), device=device), start=1):
        if not isinstance(outcome, EditResult):
            raise outcome
        if progress:
            progress(count - len(missing) + done, count)
    measured = [_measured(n, chosen[n], *rendered[n], files[n]) for n in files]
    when = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": round(time.perf_counter() - began, 1)}
    found = {**about, **when, "count": count, "weights": list(weights), "groups": groups(measured, weights)}
    (out / "report.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def _measured(n: int, case: edits.Case, source: NDArray[np.uint8], target: NDArray[np.uint8], file: Path) -> Measured:
    inside = edits.changed(source / np.float32(255), target / np.float32(255))
    values: dict[str, list[float]] = {name: [] for name in MEASURES}
    scores = []
    for k, one in enumerate(provenance.read(file)["record"]["candidates"]):
        if "failed" in one:
            continue
        made = pictures.open(beside(file, f"candidate {k + 1}")).rgb_HWC / 255
        for name, where in (("l1_inside", inside), ("l1_outside", ~inside), ("l1", None)):
            values[name].append(l1(made, target / 255, where))
        scores.append((one["agreement"], one["preservation"]))
    return Measured(n, case.kind, {name: np.array(each) for name, each in values.items()}, scores)


def groups(measured: Sequence[Measured], weights: Sequence[float]) -> dict[str, Any]:
    """For "all", "local" and "looks": of each way to choose, the mean of each measure over the cases with its standard error,
    and its paired difference to the first seed (less is better)."""
    members = {
        "all": list(measured),
        "local": [one for one in measured if one.kind in edits.LOCAL],
        "looks": [one for one in measured if one.kind in LOOKS],
    }
    return {name: _group(some, weights) for name, some in members.items() if some}


def _group(measured: Sequence[Measured], weights: Sequence[float]) -> dict[str, Any]:
    first = {name: np.array([[one.values[name][0]] for one in measured]) for name in MEASURES}
    ways: dict[str, dict[str, NDArray[np.float64]]] = {"first seed": first}
    ways["any seed"] = {name: np.array([[one.values[name].mean()] for one in measured]) for name in MEASURES}
    for weight in weights:
        picked = [one.chosen(weight) for one in measured]
        ways[f"chosen, weight {weight:g}"] = {
            name: np.array([[one.values[name][k]] for one, k in zip(measured, picked, strict=True)]) for name in MEASURES
        }
    nearest = [int(np.argmin(one.values["l1"])) for one in measured]
    ways["nearest to the truth"] = {
        name: np.array([[one.values[name][k]] for one, k in zip(measured, nearest, strict=True)]) for name in MEASURES
    }
    return {
        way: {name: {**row(values[name]), "against_first": difference(name, values[name], first[name])} for name in MEASURES}
        for way, values in ways.items()
    }


def listings(found: dict[str, Any]) -> list[Listing]:
    """A table for each group."""
    heads = ["", *(name.replace("_", " ").replace("l1", "L1") for name in MEASURES), "L1 inside against the first seed"]
    return [Listing(f"{name}, {found['candidates']} candidates", heads, _rows(ways)) for name, ways in found["groups"].items()]


def _rows(ways: dict[str, Any]) -> list[list[str]]:
    rows = []
    for way, values in ways.items():
        told = values["l1_inside"]["against_first"]
        against = "" if told["mean"] is None or way == "first seed" else f"{told['mean']:+.4f} ({told['says']})"
        rows.append([way, *(_cell(values[name]) for name in MEASURES), against])
    return rows


def _cell(value: dict[str, Any]) -> str:
    return "-" if value["mean"] is None else f"{value['mean']:.4f}" + ("" if value["se"] is None else f" ±{value['se']:.4f}")
