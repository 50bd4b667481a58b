"""MGIE's comparison, written: report.json, table.md, and a sheet of pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paintover import picture as pictures
from paintover.evaluation.ambiguous import MEASURES, Held
from paintover.evaluation.mgie_bench import Made
from paintover.evaluation.mgie_columns import NOTHING, TELLERS
from paintover.evaluation.paired import LESS
from paintover.evaluation.report import write_text
from paintover.evaluation.tables import Listing
from paintover.picture import grid

HEADS = {"l1": "L1", "l1_inside": "L1 inside", "l1_outside": "L1 outside", "ssim": "SSIM", "similarity": "similarity"}
TEXTS = {"right_things": "right things", "exact": "what is meant, word for word", "hallucinated": "things nobody asked for",
         "words": "words"}  # fmt: skip
SHOWN = ("instruct", "lgie", "mgie")  # on the sheet, between the picture and the goal, where they were run
_SIDE = 192  # px


def write(out: Path, cases: Sequence[Held], made: Mapping[str, Made], report: dict[str, Any]) -> Path:
    """Writes out/report.json, out/table.md and out/sheet.jpg; returns the latter's path."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "report.json", json.dumps(report, indent=1) + "\n")
    write_text(out / "table.md", markdown(report))
    pictures.save(out / "sheet.jpg", sheet(cases, made), force=True)
    return out / "sheet.jpg"


def listings(report: dict[str, Any]) -> list[Listing]:
    """Over all cases: the columns, what was won and lost, what the texts name; then each kind; then the ablations."""
    main = [name for name in report["columns"] if name not in report["ablations"]]
    found = [
        _columns(report, main, f"All {report['count']} cases, {report['seeds']} seeds"),
        _paired(report["paired"]["all"], main),
        *_texts(report, main),
        _kinds(report, main),
    ]
    if report["ablations"]:
        names = [name for name in ("mgie", *report["ablations"]) if name in report["columns"]]
        found += [_columns(report, names, "Ablations"), _texts(report, names)[0], _paired(report["paired"]["all"], names)]
    return [listing for listing in found if listing.rows]


def markdown(report: dict[str, Any]) -> str:
    """All tables."""
    return "\n".join(part for listing in listings(report) for part in (f"{listing.title}:\n", listing.markdown()))


def _columns(report: dict[str, Any], names: Sequence[str], title: str) -> Listing:
    heads = ["editor", *(f"{head} {'↓' if key in LESS else '↑'}" for key, head in HEADS.items())]
    rows = [[name, *(_mean(report["groups"]["all"][name][key]) for key in MEASURES)] for name in names]
    return Listing(f"{title}; mean ± standard error over the cases (spread of the seeds); ↓: less is better", heads, rows)


def _of(pairs: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """The pairs whose both columns are among these."""
    return [pair for pair in pairs if {pair["a"], pair["b"]} <= set(names)]


def _pair(pair: dict[str, Any]) -> str:
    return f"{pair['a']} - {pair['b']}"


def _paired(pairs: Sequence[dict[str, Any]], names: Sequence[str]) -> Listing:
    rows = [[_pair(pair), *map(_told, pair["measures"])] for pair in _of(pairs, names)]
    return Listing("Paired differences ± two standard errors", ["difference", *HEADS.values()], rows)


def _texts(report: dict[str, Any], names: Sequence[str]) -> list[Listing]:
    found = report["texts"]
    rows = [[name, *(_share(found["all"][name][key], key) for key in TEXTS)] for name in names if name in found["all"]]
    for pair in _of(report["texts_paired"], names):
        by_name = {one["measure"]: one for one in pair["measures"]}
        rows.append([_pair(pair), *(_told(by_name[key]) if key in by_name else "–" for key in TEXTS)])
    tellers = [name for name in TELLERS if name in found["all"]]
    heads = ["kind", "cases", *(f"{name}: {TEXTS[key]}" for key in ("right_things", "hallucinated") for name in tellers)]
    by_kind = [
        [group, str(found[group][tellers[0]]["exact"]["cases"]),
         *(_share(found[group][name][key], key) for key in ("right_things", "hallucinated") for name in tellers)]
        for group in found if tellers
    ]  # fmt: skip
    return [
        Listing("Expressive instructions, share of the cases ± standard error", ["editor", *TEXTS.values()], rows),
        Listing("Expressive instructions by kind", heads, by_kind),
    ]


def _kinds(report: dict[str, Any], names: Sequence[str]) -> Listing:
    """L1 inside the true change, by kind: what most tells one understanding from another."""
    rows, heads = [], [_pair(pair) for pair in _of(report["paired"]["all"], names)]
    for group, columns in report["groups"].items():
        differences = [
            _told(next(one for one in pair["measures"] if one["measure"] == "l1_inside"))
            for pair in _of(report["paired"][group], names)
        ]
        rows.append([group, *(_mean(columns[name]["l1_inside"], spread=False) for name in names), *differences])
    return Listing("L1 inside the true change, by kind", ["kind", *names, *heads], rows)


def _mean(row: dict[str, Any], spread: bool = True) -> str:
    if row["mean"] is None:
        return "–"
    told = f"{row['mean']:.4f}" + ("" if row["se"] is None else f" ± {row['se']:.4f}")
    return told + (f" ({row['spread']:.4f})" if spread and row["spread"] is not None else "")


def _share(row: dict[str, Any], key: str) -> str:
    if row["mean"] is None:
        return "–"
    error = row["se"] or 0
    return f"{row['mean']:.1f} ± {error:.1f}" if key == "words" else f"{100 * row['mean']:.0f} % ± {100 * error:.0f} %"


def _told(one: dict[str, Any]) -> str:
    if one["mean"] is None or one["two_se"] is None:
        return "–"
    return f"{one['mean']:+.4f} ± {one['two_se']:.4f}: {one['says']}"


def sheet(cases: Sequence[Held], made: Mapping[str, Made]) -> NDArray[np.uint8]:
    """One picture, HWC: of each kind the first case, a row each: picture and instruction, what each editor made, the goal."""
    firsts = {one.case.kind: one for one in reversed(cases)}
    names = [name for name in SHOWN if name in made] or [name for name in made if name != NOTHING]
    rows = []
    for one in sorted(firsts.values(), key=lambda one: one.n):
        editors = [(name, made[name].pictures[one.n], made[name].texts[one.n]) for name in names]
        shown = [("picture", one.source, ""), *editors, ("goal", one.target, one.case.meant)]
        title = f"{one.n}, {one.case.kind}: {one.case.instruction}"
        rows.append(grid.row(title, [(name, grid.small(pixels, None, _SIDE), text) for name, pixels, text in shown]))
    return np.concatenate(rows)
