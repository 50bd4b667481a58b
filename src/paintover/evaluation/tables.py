"""The table over editors as rows of words, for terminal, Markdown and HTML alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from paintover.evaluation.edited import CODEC, NOTHING
from paintover.evaluation.page import number, percent

SPLITS = ("plain, local", "plain, global", "place, local", "place, global")


@dataclass(frozen=True)
class Listing:
    """A title, the heads of the columns, and rows as long as the heads; the first cell of each is a name."""

    title: str
    heads: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        lines = [self.heads, ["---"] * len(self.heads), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def listings(report: dict[str, Any]) -> list[Listing]:
    """Overview and costs: what a person wants to see first."""
    return [overview(report), costs(report)]


def overview(report: dict[str, Any]) -> Listing:
    """All scenes together, and the cut in each split."""
    whole, splits = report["groups"]["all"], [name for name in SPLITS if name in report["groups"]]
    heads = ["editor", *(f"cut, {name.replace(', ', ' ')}" for name in splits)]
    heads += ["L1 inside", "PSNR inside", "SSIM inside", "L1 outside", "L1 whole", "untouched"]
    rows = []
    for name, row in whole.items():
        cuts = [_with_error(report["groups"][split][name], "cut") for split in splits]
        rows.append([_named(name, report), *cuts, *_errors(row)])
    return Listing(f"All {report['count']} scenes", heads, rows)


def group(report: dict[str, Any], name: str) -> Listing:
    """One group of scenes in full."""
    heads = ["editor", "scenes", "cut", "L1 inside", "PSNR inside", "SSIM inside", "L1 outside", "L1 whole", "untouched"]
    rows = [
        [_named(column, report), str(row["scenes"]), _with_error(row, "cut"), *_errors(row)]
        for column, row in report["groups"][name].items()
    ]
    return Listing(name, heads, rows)


def costs(report: dict[str, Any]) -> Listing:
    heads = ["editor", "steps", "evaluations cold", "warm", "warm, a step", "timed", "seconds cold", "seconds warm", "failed"]
    rows = []
    for name, row in report["costs"].items():
        seconds = [
            "–" if row[key] is None else f"{row[key]:.2f}" + ("" if row[f"{key}_se"] is None else f" ± {row[key + '_se']:.2f}")
            for key in ("seconds_cold", "seconds_warm")
        ]
        evaluations = [number(row[f"evaluations_{when}"], 0) for when in ("cold", "warm")]
        failed = len(report["failures"].get(name, ()))
        steps = report["columns"][name]["steps"]
        rows.append(
            [name, str(steps or "–"), *evaluations, number(row["per_step"], 2), str(row["timed"]), *seconds, str(failed or "–")]
        )
    return Listing(f"Costs, each edit alone, on {report['device']}", heads, rows)


def _errors(row: dict[str, Any]) -> list[str]:
    return [
        _with_error(row, "l1_inside"),
        number(row["psnr_inside"], 1),
        number(row["ssim_inside"], 2),
        _with_error(row, "l1_outside"),
        _with_error(row, "l1_whole"),
        percent(row["untouched"]),
    ]


def _with_error(row: dict[str, Any], key: str) -> str:
    value, error = row[key], row[f"{key}_se"]
    if value is None:
        return "–"
    return f"{percent(value)} ± {percent(error)}" if key == "cut" else f"{value:.3f} ± {number(error, 3)}"


def _named(name: str, report: dict[str, Any]) -> str:
    """Editors that are told the instruction are a reference of another kind, and marked."""
    if name in (NOTHING, CODEC):
        return f"({name})"
    return name if report["columns"][name]["told"] == "caption" else f"{name} *"
