"""MGIE, its baselines and its variants on ambiguous instructions whose answer is known.

What each is told is the ambiguous instruction; the oracle alone, which is `instruct`, is told what is meant: that is what
perfect understanding would give. The language model answers once a picture and instruction, whatever the seed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from paintover import __version__
from paintover.evaluation.ambiguous import MEASURES, Eye, Held, held
from paintover.evaluation.mgie_bench import Bench, Made
from paintover.evaluation.mgie_columns import NOTHING, TELLERS, ablations, columns
from paintover.evaluation.naming import JUDGED, of_each
from paintover.evaluation.paired import Values, difference, row
from paintover.models.bundle import load
from paintover.orders.code import code
from paintover.scenes.assets import Assets

PAIRS = (TELLERS, ("mgie", "instruct"), ("lgie", "instruct"))


def run(
    root: Path,
    photos: Path | None,
    *,
    out: Path,
    model: str = "builtin",
    names: Sequence[str] | None = None,
    others: Sequence[str] = (),
    count: int = 160,
    seeds: int = 5,
    size: int | None = None,
    seed: int = 3,
    steps: int | None = None,
    force: bool = False,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Held], dict[str, Made], dict[str, Any]]:
    """Edits `count` held-out cases under `seeds` seeds by each column of `names` (all of COLUMNS if None).

    others: ablations, each NAME=BUNDLE, edited by mgie in a column more. Each edit is kept in `out` as it is finished: an
    interrupted run goes on where it was. Returns the cases, the columns and the report as plain JSON. Raises PaintoverError.
    """
    began = time.perf_counter()
    chosen, more = columns(names), ablations(others)
    chosen += more
    assets, bundle = Assets(root, "held_out", photos), load(model, device=device)
    cases = held(assets, count, size or bundle.size, seed)
    eye = Eye(bundle.mllm()) if "mgie" in bundle.capabilities else None
    about = {
        "model": model, "fingerprint": bundle.fingerprint, "size": size or bundle.size, "seed": seed,
        "world": assets.fingerprint, "paintover": __version__, "code": code("scenes"),
    }  # fmt: skip
    done = 0

    def count_edits(more: int) -> None:
        nonlocal done
        done += more
        if progress:
            progress(done, len(chosen) * count * seeds)

    bench = Bench(
        cases=cases, seeds=seeds, out=out, about=about, eye=eye, steps=steps, force=force, device=device,
        on_edits=count_edits,
    )  # fmt: skip
    for column in chosen:  # before the first edit: what the last column lacks would be told hours later
        bench.settings(column)
    made = {NOTHING: bench.nothing(), **{column.name: bench.column(column) for column in chosen}}
    when = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": round(time.perf_counter() - began, 1)}
    facts = {**about, "device": str(bundle.denoiser.device), **when, "count": count, "seeds": seeds}
    return cases, made, {**facts, **report(cases, made, assets.classes, [column.name for column in more])}


def report(cases: Sequence[Held], made: dict[str, Made], classes: Sequence[str], others: Sequence[str]) -> dict[str, Any]:
    """Means by kind and over all, paired differences, what the texts name, and every case, as plain JSON."""
    kinds = list(dict.fromkeys(one.case.kind for one in cases))
    groups = {"all": list(range(len(cases)))} | {k: [i for i, c in enumerate(cases) if c.case.kind == k] for k in kinds}
    told = {name: of_each([(t, c.case) for t, c in zip(m.texts, cases, strict=True)], classes)
            for name, m in made.items() if any(m.texts)}  # fmt: skip
    pairs = [pair for pair in PAIRS if set(pair) <= set(made)] + [(n, "mgie") for n in others if "mgie" in made]

    def said(name: str, judged: str, at: list[int]) -> Values:
        return np.array(told[name][judged], dtype=np.float64)[at, None]

    return {
        "columns": {name: m.settings for name, m in made.items()},
        "ablations": list(others),
        "groups": {
            group: {name: {key: row(m.values[key][at]) for key in MEASURES} for name, m in made.items()}
            for group, at in groups.items()
        },
        "paired": {
            group: [
                {"a": a, "b": b,
                 "measures": [difference(key, made[a].values[key][at], made[b].values[key][at]) for key in MEASURES]}
                for a, b in pairs
            ]
            for group, at in groups.items()
        },
        "texts": {
            group: {name: {key: row(said(name, key, at)) for key in told[name]} for name in told}
            for group, at in groups.items()
        },
        "texts_paired": [
            {"a": a, "b": b,
             "measures": [difference(key, *(said(name, key, groups["all"]) for name in (a, b)))
                          for key in JUDGED if key != "words"]}
            for a, b in pairs if {a, b} <= set(told)
        ],
        "cases": [
            {"n": c.n, "kind": c.case.kind, "instruction": c.case.instruction, "meant": c.case.meant,
             "texts": {name: made[name].texts[i] for name in told}}
            for i, c in enumerate(cases)
        ],
    }  # fmt: skip
