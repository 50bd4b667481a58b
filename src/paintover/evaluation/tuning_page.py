"""The comparison of tuning editors, written: report.json, table.md, and the curves above a sheet of pictures."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from paintover import picture as pictures
from paintover.evaluation.page import number, percent
from paintover.evaluation.plot import Point, plot
from paintover.evaluation.report import write_text
from paintover.evaluation.tables import Listing
from paintover.evaluation.tuning import Turned

SHOWN = 2  # scenes on the sheet
_SIDE, _GAP, _LEFT, _TOP = 96, 4, 130, 20  # px


def write(out: Path, outcomes: Sequence[Turned], report: dict[str, Any]) -> Path:
    """Writes out/report.json, out/table.md and out/curves.jpg; returns the latter's path."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "report.json", json.dumps(report, indent=1) + "\n")
    write_text(out / "table.md", markdown(report))
    pictures.save(out / "curves.jpg", drawn(outcomes, report), force=True)
    return out / "curves.jpg"


def listings(report: dict[str, Any]) -> list[Listing]:
    """The settings of every dial, expressiveness at equal fidelity, and seconds."""
    turns = Listing(
        "Every setting", ["method", "dial", "cut", "L1 outside", "SSIM kept", "L1 kept", "L1 to the target inside"], []
    )
    for name, rows in report["curves"].items():
        for row in rows:
            cells = [_with_error(row, "cut"), *(_with_error(row, key) for key in ("outside", "kept_ssim", "kept_l1"))]
            turns.rows.append([name, f"{report['dials'][name]} {row['value']:g}", *cells, _with_error(row, "target_l1")])
    levels = [row["outside"] for row in next(iter(report["equal"].values()), [])]
    equal = Listing("Cut at equal fidelity", ["method", *(f"L1 outside ≤ {level:g}" for level in levels)], [])
    for name, rows in report["equal"].items():
        equal.rows.append([name, *(_with_error(row, "cut") for row in rows)])
    seconds = Listing(f"Seconds, {report['jobs']} at a time on {report['device']}", ["method", "tuning", "an edit"], [])
    for name, row in report["seconds"].items():
        seconds.rows.append([name, *(_taken(row[part]) for part in ("tune", "edit"))])
    return [equal, turns, seconds]


def markdown(report: dict[str, Any]) -> str:
    """All tables, the claims, and what failed."""
    parts = [part for listing in listings(report) for part in (f"{listing.title}:\n", listing.markdown())]
    parts.append("\n".join(f"* {claim['says']}" for claim in report["claims"]) + "\n")
    return "\n".join([*parts, *(f"{line}\n" for line in failed(report))])


def failed(report: dict[str, Any]) -> list[str]:
    """A line for each method that failed somewhere."""
    return [f"{name} failed {len(lines)} times: {lines[0]}" for name, lines in report["failures"].items()]


def drawn(outcomes: Sequence[Turned], report: dict[str, Any]) -> NDArray[np.uint8]:
    """One picture, HWC: expressiveness over both measures of fidelity, and below what each setting makes of some scenes."""
    rows = report["curves"]
    outside = {name: [_point(row, "outside") for row in curve] for name, curve in rows.items()}
    kept = {name: [_point(row, "kept_ssim") for row in curve] for name, curve in rows.items()}
    cut = "cut of the error inside the change"
    above = [
        plot(outside, "Right: the picture is lost. Up: the words are done.", "L1 to the source, outside of the change", cut),
        plot(kept, "Right: what stays is the same.", "SSIM to the source, in the things that stay", cut),
    ]
    below = sheet(outcomes, report)
    width = max(sum(image.shape[1] for image in above), below.shape[1])
    height = above[0].shape[0]
    canvas = Image.new("RGB", (width, height + below.shape[0]), "white")
    canvas.paste(Image.fromarray(above[0]), (0, 0))
    canvas.paste(Image.fromarray(above[1]), (above[0].shape[1], 0))
    canvas.paste(Image.fromarray(below), (0, height))
    return np.asarray(canvas)


def sheet(outcomes: Sequence[Turned], report: dict[str, Any]) -> NDArray[np.uint8]:
    """For each of the first scenes a row a method: source, true target, and the edit at each setting of the dial."""
    scenes = list({o.scene.n: o.scene for o in outcomes}.values())[:SHOWN]
    methods = list(dict.fromkeys(o.method for o in outcomes))
    most = max((o.v + 1 for o in outcomes), default=0)
    made = {(o.scene.n, o.method, o.v): o.picture for o in outcomes}
    line = _SIDE + _GAP
    canvas = Image.new("RGB", (_LEFT + (2 + most) * line, len(scenes) * (_TOP + len(methods) * (line + 12))), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    for j, scene in enumerate(scenes):
        top = j * (_TOP + len(methods) * (line + 12))
        case = scene.about.case
        draw.text((6, top + 3), f"{scene.n}, {case.kind}: {case.caption} -> {case.target_caption}", "black", font)
        for i, method in enumerate(methods):
            down = top + _TOP + i * (line + 12)
            draw.multiline_text((6, down + 14), "\n".join(textwrap.wrap(method, 18)), "black", font)
            values = [f"{row['value']:g}" for row in report["curves"].get(method, ())]
            labels = ["source", "true target", *(f"{report['dials'].get(method, '')} {value}" for value in values)]
            shown = [scene.source, scene.target, *(made.get((scene.n, method, v)) for v in range(most))]
            for k, pixels in enumerate(shown):
                if k < len(labels):
                    draw.text((_LEFT + k * line, down), labels[k], "black", font)
                if pixels is not None:
                    small = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
                    canvas.paste(small, (_LEFT + k * line, down + 12))
    return np.asarray(canvas)


def _point(row: dict[str, Any], key: str) -> Point:
    return Point(row[key], row["cut"], row[f"{key}_se"] or 0.0, row["cut_se"] or 0.0)


def _with_error(row: dict[str, Any], key: str) -> str:
    value, error = row[key], row[f"{key}_se"]
    if value is None:
        return "–"
    return f"{percent(value)} ± {percent(error)}" if key == "cut" else f"{value:.3f} ± {number(error, 3)}"


def _taken(row: dict[str, float | None]) -> str:
    return "–" if row["mean"] is None else f"{row['mean']:.1f} ± {number(row['se'], 1)}"
