"""The table over editors, written: report.json, table.md, a contact sheet, and a page with everything."""

from __future__ import annotations

import html
import json
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.table import Table

from paintover import picture as pictures
from paintover.evaluation.edited import CODEC, NOTHING, Edited, Scene
from paintover.evaluation.page import data
from paintover.evaluation.report import write_text
from paintover.evaluation.tables import Listing, group, listings

WIDTH = 150  # columns of a terminal that the tables need
SHOWN = 16  # scenes on the sheet: one of each series and kind
_SIDE, _LEFT, _TOP, _GAP = 96, 190, 46, 4  # px
_NOTE = "\\* told the instruction instead of captions: a reference of another kind.\n"


def write(out: Path, outcomes: Sequence[Edited], report: dict[str, Any]) -> Path:
    """Writes out/report.json, out/table.md, out/sheet.jpg and out/index.html (self-contained); returns the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    drawn = sheet(outcomes)
    write_text(out / "report.json", json.dumps(report, indent=1) + "\n")
    write_text(out / "table.md", markdown(report))
    pictures.save(out / "sheet.jpg", drawn, force=True)
    write_text(out / "index.html", page(report, drawn))
    return out / "index.html"


def tables(listed: Sequence[Listing]) -> list[Table]:
    """For the terminal."""
    made = []
    for listing in listed:
        table = Table(title=listing.title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for i, head in enumerate(listing.heads):
            table.add_column(head, justify="right" if i else "left", no_wrap=i == 0)
        for row in listing.rows:
            table.add_row(*row)
        made.append(table)
    return made


def markdown(report: dict[str, Any]) -> str:
    """Overview, costs, MDP's claim and failures."""
    first, second = listings(report)
    parts = [first.markdown(), _NOTE, f"{second.title}:\n", second.markdown()]
    for finding in report["claim"]:
        parts.append(f"MDP's claim, inversion {finding['inversion']}:\n")
        parts.append("\n".join(f"* {line}" for line in finding["says"]) + "\n")
    return "\n".join([*parts, *(f"{line}\n" for line in failed(report))])


def failed(report: dict[str, Any]) -> list[str]:
    """A line for each editor that failed somewhere."""
    return [f"{name} failed on {len(lines)} of {report['count']}: {lines[0]}" for name, lines in report["failures"].items()]


def page(report: dict[str, Any], drawn: NDArray[np.uint8]) -> str:
    """Everything, as one HTML page that needs nothing beside it."""
    keys = ("model", "fingerprint", "count", "size", "seed", "device", "date")
    facts = "".join(f"<dt>{key}</dt><dd>{html.escape(str(report[key]))}</dd>" for key in keys)
    said = "".join(
        f"<h3>inversion: {html.escape(f['inversion'])}</h3>" + "".join(f"<p>{html.escape(line)}</p>" for line in f["says"])
        for f in report["claim"]
    )
    failures = "".join(
        f"<p>{html.escape(name)}: {len(lines)} failed; {html.escape(lines[0])}</p>"
        for name, lines in report["failures"].items()
    )
    settings = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(json.dumps(told['knobs']))}, {told['steps']} steps. "
        f"{html.escape(told['paper'])}</dd>"
        for name, told in report["columns"].items()
    )
    groups = "".join(_table(group(report, name)) for name in report["groups"])
    template = Template(Path(__file__).with_name("comparison.html").read_text(encoding="utf-8"))
    return template.substitute(
        count=report["count"],
        facts=facts,
        overview="".join(map(_table, listings(report))),
        claim=said or "<p>Not all four of its forms were run.</p>",
        failures=failures,
        settings=settings,
        groups=groups,
        sheet=data(drawn),
    )


def sheet(outcomes: Sequence[Edited]) -> NDArray[np.uint8]:
    """One picture, HWC: a row a scene, with source, true target, and what each editor made of it."""
    scenes = list({o.scene.n: o.scene for o in outcomes}.values())[:SHOWN]
    names = [name for name in dict.fromkeys(o.column for o in outcomes) if name not in (NOTHING, CODEC)]
    made = {(o.scene.n, o.column): o.pixels for o in outcomes}
    font = ImageFont.load_default(11)
    width, height = _LEFT + (2 + len(names)) * (_SIDE + _GAP), _TOP + len(scenes) * (_SIDE + _GAP)
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    for i, name in enumerate(("source", "true target", *names)):
        label = "\n".join(textwrap.wrap(re.sub(r"\+", " +", name), 15))
        draw.multiline_text((_LEFT + i * (_SIDE + _GAP), 2), label, "black", font)
    for j, scene in enumerate(scenes):
        top = _TOP + j * (_SIDE + _GAP)
        draw.multiline_text((6, top + 4), _said(scene), "black", font)
        for i, pixels in enumerate((scene.source, scene.target, *(made.get((scene.n, name)) for name in names))):
            left = _LEFT + i * (_SIDE + _GAP)
            if pixels is None:
                draw.text((left + 20, top + 40), "failed", "red", font)
                continue
            canvas.paste(Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), (left, top))
    return np.asarray(canvas)


def _said(scene: Scene) -> str:
    case = scene.about.case
    lines = textwrap.wrap(case.caption, 31) + textwrap.wrap("-> " + case.target_caption, 31)
    return "\n".join([f"{scene.n}: {scene.about.series}, {case.kind}", *lines][:7])


def _table(listing: Listing) -> str:
    heads = "".join(f"<th>{html.escape(head)}</th>" for head in listing.heads)
    rows = "".join(
        f"<tr><th scope=row>{html.escape(name)}</th>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
        for name, *cells in listing.rows
    )
    title = html.escape(listing.title)
    return f"<h2>{title}</h2><div class=scroll><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
