"""any2pix's comparison, written: report.json, table.md, and a sheet of pictures with the trade-off's curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paintover import picture as pictures
from paintover.evaluation.any2pix import Groups
from paintover.evaluation.any2pix_bench import UNDERSTOOD, Made
from paintover.evaluation.any2pix_cases import Held
from paintover.evaluation.any2pix_columns import CURVES, NOTHING
from paintover.evaluation.paired import LESS, by_case
from paintover.evaluation.plot import Point, plot
from paintover.evaluation.report import write_text
from paintover.evaluation.tables import Listing
from paintover.picture import grid

HEADS = {
    "l1_inside": "L1 inside", "l1_outside": "L1 outside", "l1": "L1", "clip_im": "CLIP_im", "clip_out": "CLIP_out",
    "clip_dir": "CLIP_dir",
}  # fmt: skip
TITLES = {
    "ways": "The same edits told by words, by a picture and by a sound", "two": "Two operations in one instruction",
    "refinement": "The prior (h2 = 0.4 or 0) and a second walk (refinement = 0.5 or 0)",
    "control": "What alpha and guidance trade", "whole": "Styles, pictures that fit a sound, and pictures made",
}  # fmt: skip
_TOLD = {"caption": "caption is what is meant, word for word", "base": "right base", "subs": "right references of what appears",
         "forced": "control tokens put in"}  # fmt: skip
_SIDE, _CELLS = 144, 7  # px of a picture on the sheet, and pictures in a row


def write(out: Path, made: Groups, report: dict[str, Any]) -> Path:
    """Writes out/report.json, out/table.md and out/sheet.jpg; returns the latter's path."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "report.json", json.dumps(report, indent=1) + "\n")
    write_text(out / "table.md", markdown(report))
    pictures.save(out / "sheet.jpg", sheet(made, report), force=True)
    return out / "sheet.jpg"


def listings(report: dict[str, Any]) -> list[Listing]:
    """Of each group: its columns over all cases, what was won and lost, and L1 inside the change by kind; then what was
    understood."""
    found = []
    for group, one in report["groups"].items():
        found += [_columns(group, one), _paired(one), _kinds(one)]
    return [listing for listing in (*found, _understood(report)) if listing.rows]


def markdown(report: dict[str, Any]) -> str:
    return "\n".join(part for listing in listings(report) for part in (f"{listing.title}:\n", listing.markdown()))


def _columns(group: str, one: dict[str, Any]) -> Listing:
    arrows = [f"{head} {'↓' if key in LESS else '↑'}" for key, head in HEADS.items()]
    heads = ["column", *arrows[:1], "PSNR inside ↑", *arrows[1:]]
    rows = []
    for name, values in one["measures"]["all"].items():
        told = [_mean(values[key]) for key in HEADS]
        db = values["psnr_inside"]
        rows.append([name, told[0], "–" if db is None else f"{db:.1f}", *told[1:]])
    return Listing(f"{TITLES[group]}: {one['cases']} cases, mean ± standard error", heads, rows)


def _paired(one: dict[str, Any]) -> Listing:
    rows = [
        [f"{pair['a']} - {pair['b']}", *(_told(m) for m in pair["measures"] if m["measure"] in HEADS)] for pair in one["paired"]
    ]
    order = [m["measure"] for pair in one["paired"][:1] for m in pair["measures"] if m["measure"] in HEADS]
    return Listing("Paired differences ± two standard errors", ["difference", *(HEADS[key] for key in order)], rows)


def _kinds(one: dict[str, Any]) -> Listing:
    """A picture that is made has no inside: there it is L1 over the whole."""
    kinds = [kind for kind in one["measures"] if kind != "all"]
    names = list(one["columns"])
    if not one["paired"]:
        return Listing("", [], [])
    rows = [[name, *(_mean(one["measures"][kind][name]["l1_inside"]) for kind in kinds)] for name in names]
    return Listing("L1 inside the true change, by kind", ["column", *kinds], rows if kinds else [])


def _understood(report: dict[str, Any]) -> Listing:
    rows = []
    for group, one in report["groups"].items():
        seen = set()  # columns that differ in how they walk understand alike
        for name, values in one["understood"].items():
            told = [_share(values[key]) for key in UNDERSTOOD]
            if (one["columns"][name]["told"], *told) not in seen:
                rows.append([f"{group}: {name}", *told])
            seen.add((one["columns"][name]["told"], *told))
    return Listing("What the language model made of the instructions, share of the cases", ["group", *_TOLD.values()], rows)


def _mean(value: dict[str, Any]) -> str:
    if value["mean"] is None:
        return "–"
    return f"{value['mean']:.4f}" + ("" if value["se"] is None else f" ± {value['se']:.4f}")


def _share(value: dict[str, Any]) -> str:
    return "–" if value["mean"] is None else f"{100 * value['mean']:.0f} %"


def _told(one: dict[str, Any]) -> str:
    if one["mean"] is None or one["two_se"] is None:
        return "–"
    return f"{one['mean']:+.4f} ± {one['two_se']:.4f}: {one['says']}"


def sheet(made: Groups, report: dict[str, Any]) -> NDArray[np.uint8]:
    """One picture, HWC: of each group the best case, one in the middle and the two worst, by L1 inside the change (of its first
    column, as a part of doing nothing's); then the curves."""
    rows = []
    for group, (cases, columns) in made.items():
        names = [name for name in columns if name != NOTHING]
        for rank, one in _shown(cases, columns, names[0]):
            i = cases.index(one)
            edited = [(name, columns[name].pictures[i], columns[name].captions[i]) for name in _some(names)]
            meant = next(iter(one.told.values())).words
            shown = [("goal", one.target, meant), *edited]
            if one.source is not None:
                shown = [("picture", one.source, ""), *shown]
            title = f"{group} {one.n}, {one.kind} ({rank}): " + " | ".join(told.instruction for told in one.told.values())
            rows.append(grid.row(title, [(name, grid.small(pixels, None, _SIDE), text) for name, pixels, text in shown]))
    if "control" in report["groups"]:
        rows.append(np.concatenate(curves(report["groups"]["control"]), axis=1))
    return _stacked(rows)


def curves(one: dict[str, Any]) -> list[NDArray[np.uint8]]:
    """CLIP_im against CLIP_dir, and L1 outside of the change against L1 inside."""
    told = one["measures"]["all"]

    def line(names: Sequence[str], x: str, y: str) -> list[Point]:
        known = [(told[name][x], told[name][y]) for name in names if name in told]
        return [
            Point(a["mean"], b["mean"], a["se"] or 0.0, b["se"] or 0.0)
            for a, b in known if a["mean"] is not None and b["mean"] is not None
        ]  # fmt: skip

    made = []
    for title, x, y in (
        ("change as told against likeness to the source", "clip_dir", "clip_im"),
        ("error inside and outside of the true change", "l1_inside", "l1_outside"),
    ):
        lines = {name: points for name, names in CURVES.items() if (points := line(names, x, y))}
        made.append(plot({**lines, NOTHING: line([NOTHING], x, y)}, title, HEADS[x], HEADS[y]))
    return made


def _some(names: list[str]) -> list[str]:
    """As many as there is room for, evenly."""
    if len(names) <= _CELLS - 2:
        return names
    return [names[int(i)] for i in np.linspace(0, len(names) - 1, _CELLS - 2).round()]


def _shown(cases: Sequence[Held], columns: dict[str, Made], first: str) -> list[tuple[str, Held]]:
    mine, idle = (by_case(columns[name].values["l1_inside"]) for name in (first, NOTHING))
    order = [int(n) for n in np.argsort(mine / np.maximum(idle, 1e-6))]
    ranks = {"worst": order[-1]}
    if len(order) > 5:
        ranks = {"best": order[0], "middle": order[len(order) // 2], "worst but one": order[-2], **ranks}
    return [(rank, cases[n]) for rank, n in ranks.items()]


def _stacked(rows: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows])
