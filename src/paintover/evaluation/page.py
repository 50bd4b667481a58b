"""The report as one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
import html
import io
import math
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from paintover.evaluation.ranking import ends, remaining
from paintover.evaluation.scenes import Outcome

GROUPS = ("local", "looks", "all")
SHOWN = 3  # best and worst cases of each kind


def page(ranked: dict[str, list[Outcome]], report: dict[str, Any]) -> str:
    """The report as one HTML page that needs nothing beside it."""
    settings = {
        key: report[key] for key in ("model", "fingerprint", "editor", "steps", "knobs", "size", "sides", "seed", "date")
    }
    facts = "".join(f"<dt>{key}</dt><dd>{html.escape(_said(value))}</dd>" for key, value in settings.items())
    rows = "".join(_row(kind, row) for kind, row in report["kinds"].items())
    shown = "".join(_gallery(kind, outcomes, report["kinds"][kind]) for kind, outcomes in ranked.items())
    template = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    return template.substitute(count=report["count"], facts=facts, rows=rows, gallery=shown, shown=SHOWN)


def _row(kind: str, row: dict[str, Any]) -> str:
    methods = [row[name] for name in ("edit", "nothing", "codec")]
    cells = [str(row["cases"]), percent(row["cut"])]
    for key, digits in (("l1_inside", 4), ("psnr_inside", 1), ("ssim_inside", 3)):
        cells += [number(method[key], digits) for method in methods]
    cells += [number(row["edit"]["l1_outside"], 4), number(row["codec"]["l1_outside"], 4), percent(row["untouched"])]
    cut = row["cut"]
    judged = "" if cut is None else " class=better" if cut > 0 else " class=worse"
    tags = ["", judged, *[""] * (len(cells) - 2)]
    name = html.escape(kind)
    body = "".join(f"<td{tag}>{cell}</td>" for tag, cell in zip(tags, cells, strict=True))
    return f"<tr{' class=group' if kind in GROUPS else ''}><th scope=row>{name}</th>{body}</tr>"


def _gallery(kind: str, outcomes: list[Outcome], row: dict[str, Any]) -> str:
    cut = f": {percent(row['cut'])} of doing nothing's error taken off" if row["cut"] is not None else ""
    figures = []
    for end, o in ends(outcomes, SHOWN):
        images = "".join(
            f'<img src="{data(pixels)}" alt="{name}" title="{name}">'
            for name, pixels in (("source", o.source), ("true target", o.target), ("edited", o.edited))
        )
        words = html.escape(o.instruction)
        left = "" if math.isnan(o.errors["nothing"]["l1_inside"]) else f", {percent(1 - remaining(o))}"
        figures.append(
            f"<figure>{images}<figcaption><q>{words}</q><small>{end}{left}, case {o.n}</small></figcaption></figure>"
        )
    return f"<section><h2>{html.escape(kind)}<small>{cut}</small></h2><div class=cases>{''.join(figures)}</div></section>"


def data(pixels: NDArray[np.uint8]) -> str:
    """As a data URI. Lossy, to keep the page small: what was measured lies in cases/.

    Pillow directly: `picture.save` writes files, lossless and whole, and this is neither.
    """
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


def number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}%"


def _said(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
