"""What an evaluation came to: a table for the terminal, report.json, and a page with a contact sheet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from paintover import picture as pictures
from paintover.evaluation.page import GROUPS, number, page, percent
from paintover.evaluation.ranking import rank, sheet
from paintover.evaluation.scenes import Outcome
from paintover.evaluation.summary import METHODS

WIDTH = 112  # columns of a terminal that the table needs
_COLUMNS = ("cases", "cut", "L1 inside", "PSNR inside", "SSIM inside", "L1 outside", "untouched")


def table(report: dict[str, Any]) -> Table:
    """The report as a table for the terminal: inside the change each measure of the edit, of doing nothing and of the codec."""
    title = (
        f"{report['count']} held-out cases, {report['editor']}, {report['steps']} steps, model {report['model']}\n"
        "inside the true change: the edit, doing nothing, the codec alone"
    )
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    made.add_column("kind", no_wrap=True)
    for name in _COLUMNS:
        made.add_column(name, justify="right", no_wrap=True)
    for kind, row in report["kinds"].items():
        three = [row[method] for method in METHODS]
        made.add_row(
            kind,
            str(row["cases"]),
            percent(row["cut"]),
            *(
                "  ".join(f"{number(method[f'{name}_inside'], digits):>5}" for method in three)
                for name, digits in (("l1", 3), ("psnr", 1), ("ssim", 3))
            ),
            number(row["edit"]["l1_outside"], 3),
            percent(row["untouched"]),
            style="bold" if kind in GROUPS else None,
        )
    return made


def write(out: Path, outcomes: Sequence[Outcome], report: dict[str, Any]) -> Path:
    """Writes out/report.json, out/sheet.png and out/index.html (self-contained), and returns the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    ranked = rank(outcomes)
    write_text(out / "report.json", json.dumps(report, indent=1) + "\n")
    pictures.save(out / "sheet.png", sheet(ranked), force=True)
    write_text(out / "index.html", page(ranked, report))
    return out / "index.html"


def write_text(file: Path, text: str) -> None:
    part = file.with_name(file.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)
