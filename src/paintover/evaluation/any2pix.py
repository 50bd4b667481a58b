"""any2pix on held-out instructions that name pictures and sounds, whose answer is known (InstructAny2Pix; methods.md D.5).

Five groups of cases. ways: the same edits told by words, by a picture and by a sound. two: two operations at once or one after
the other. refinement: the prior and the second walk, on and off. control: what alpha and guidance trade. whole: styles,
pictures that fit a sound, and pictures made. All beside doing nothing, and `instruct` or `imagine` told the meaning in words.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from paintover import __version__
from paintover.errors import RequestError
from paintover.evaluation.any2pix_bench import MEASURES, Bench, Made
from paintover.evaluation.any2pix_cases import GROUPS, Held, held
from paintover.evaluation.any2pix_columns import COLUMNS, NOTHING, PAIRS, Column
from paintover.evaluation.metrics import psnr
from paintover.evaluation.paired import difference, plain, row
from paintover.models.bundle import load
from paintover.orders.code import code
from paintover.scenes.assets import Assets
from paintover.scenes.sounds import Sounds

Groups = dict[str, tuple[list[Held], dict[str, Made]]]


def run(
    root: Path,
    photos: Path | None,
    recordings: Path | None,
    *,
    out: Path,
    model: str = "builtin",
    groups: Sequence[str] | None = None,
    count: int = 20,
    size: int | None = None,
    seed: int = 5,
    steps: int | None = None,
    force: bool = False,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Groups, dict[str, Any]]:
    """Edits the cases of `groups` (all if None), `count` in the largest, by each column.

    Each edit is kept in `out` as it is finished: an interrupted run goes on where it was. Returns cases and columns by group,
    and the report as plain JSON. Raises PaintoverError.
    """
    began = time.perf_counter()
    for name in groups or ():
        if name not in GROUPS:
            raise RequestError(f"there is no group {name!r}; choose of {', '.join(GROUPS)}")
    assets, sounds = Assets(root, "held_out", photos, heard=True), Sounds(root, "held_out", recordings)
    bundle = load(model, device=device)
    bundle.require("any2pix", editor="any2pix")
    size = size or bundle.size
    cases = {
        name: held(name, max(1, round(GROUPS[name][2] * count)), assets, sounds, size, seed)
        for name in dict.fromkeys(groups or GROUPS)
    }
    # A model that cannot be shown a picture has no column of those that show it.
    able = bool(getattr(bundle.denoiser, "takes_image", False))
    columns = {name: [column for column in COLUMNS[name] if able or _fits(column)] for name in cases}
    about = {
        "model": model, "fingerprint": bundle.fingerprint, "size": size, "seed": seed, "world": assets.fingerprint,
        "paintover": __version__, "code": code("scenes"),
    }  # fmt: skip
    whole, done = sum(len(cases[name]) * len(columns[name]) for name in cases), 0

    def count_edits(more: int) -> None:
        nonlocal done
        done += more
        if progress:
            progress(done, whole)

    bench = Bench(
        bundle=bundle, model=model, out=out, about=about, steps=steps, size=size, force=force, device=device,
        on_edits=count_edits,
    )  # fmt: skip
    made: Groups = {}
    for name, mine in cases.items():
        made[name] = mine, {NOTHING: bench.nothing(mine)}
        for column in columns[name]:
            made[name][1][column.name] = bench.column(name, column, mine)
    when = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": round(time.perf_counter() - began, 1)}
    facts = {**about, "device": str(bundle.denoiser.device), **when, "count": count}
    return made, {**facts, "groups": {name: report(name, *both) for name, both in made.items()}}


def _fits(column: Column) -> bool:
    return column.editor == "any2pix" and not column.knobs.get("see_base")


def report(group: str, cases: Sequence[Held], made: dict[str, Made]) -> dict[str, Any]:
    """Means over the cases, and by kind; what was understood; paired differences; and every case, as plain JSON."""
    kinds = list(dict.fromkeys(one.kind for one in cases))
    members = {"all": list(range(len(cases)))}
    if len(kinds) > 1:
        members |= {kind: [n for n, one in enumerate(cases) if one.kind == kind] for kind in kinds}
    pairs = [pair for pair in PAIRS[group] if set(pair) <= set(made)]
    return {
        "cases": len(cases),
        "columns": {name: one.settings for name, one in made.items()},
        "measures": {
            kind: {name: {**{key: row(one.values[key][at]) for key in MEASURES}, "psnr_inside": _psnr(one, at)}
                   for name, one in made.items()}
            for kind, at in members.items()
        },
        "understood": {
            name: {key: row(values) for key, values in one.understood.items()} for name, one in made.items() if one.understood
        },
        "paired": [
            {"a": a, "b": b, "measures": [difference(key, made[a].values[key], made[b].values[key]) for key in MEASURES]}
            for a, b in pairs
        ],
        "each": [
            {"n": one.n, "kind": one.kind, "meant": next(iter(one.told.values())).words,
             "instructions": {how: told.instruction for how, told in one.told.items()},
             "captions": {name: column.captions[i] for name, column in made.items() if column.captions[i]},
             "l1_inside": {name: plain(column.values["l1_inside"][i, 0]) for name, column in made.items()}}
            for i, one in enumerate(cases)
        ],
    }  # fmt: skip


def _psnr(one: Made, at: list[int]) -> float | None:
    """Of the mean squared error inside the change."""
    squared = one.values["l2_inside"][at]
    known = squared[~np.isnan(squared)]
    return plain(psnr(float(known.mean()))) if known.size else None
