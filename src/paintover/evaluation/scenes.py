"""The exact-truth benchmark: edits of held-out scenes, each compared with the target that the world renders.

The way of a request is the product's own: every case goes through `edit_many` as a person's picture would. Beside it stand
doing nothing (the source itself) and the codec alone (the true target, fitted to the model's grid, encoded, decoded and
brought back: nobody can edit better than that).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paintover import __version__
from paintover.editors import registry
from paintover.engine.cache import PrepareCache
from paintover.evaluation.compare import as_uint8, errors, through_codec, untouched
from paintover.evaluation.kept import Kept
from paintover.evaluation.summary import summary
from paintover.models.bundle import Bundle, load
from paintover.orders.code import code
from paintover.orders.order import Order, check, request_for, resolve
from paintover.orders.run import edit_many
from paintover.request import EditResult
from paintover.scenes import edits
from paintover.scenes.assets import Assets
from paintover.scenes.looks import LOOKS

# In one round of 24 the local kinds weigh as much as the looks. "place" names a place, not a picture: its truth is one of
# many.
ROUND = (*["remove", "replace", "recolour"] * 3, "add", "add", "place", "nothing", *LOOKS)


@dataclass(frozen=True, eq=False)
class Outcome:
    """One case: the pictures (uint8 HWC), its instruction, and the errors of each method inside and outside the change."""

    n: int
    kind: str
    instruction: str
    source: NDArray[np.uint8]
    target: NDArray[np.uint8]
    edited: NDArray[np.uint8]
    errors: dict[str, dict[str, float]]
    untouched: float  # share of the pixels outside the true change that are the source's, bit for bit
    evaluations: int


def cases(assets: Assets, count: int, seed: int, sides: tuple[float, float] = edits.SIDES) -> Iterator[edits.Case]:
    """The benchmark's cases: the n-th depends on seed, sides and n alone (and on whether there are photographs)."""
    for n in range(count):
        yield edits.make(ROUND[n % len(ROUND)], assets, np.random.default_rng([seed, n]), sides)


def words(case: edits.Case, editor: str) -> dict[str, str]:
    """The case in the words that the editor takes: the instruction, or a caption of the target (and one of the source)."""
    recipe = registry.get(editor)
    said = {"instruction": case.target_caption if recipe.told == "caption" else case.instruction}
    return said | {"source_prompt": case.caption} if recipe.takes_source_prompt else said


def run(
    root: Path,
    photos: Path | None,
    *,
    model: str = "builtin",
    editor: str = "instruct",
    count: int = 300,
    size: int | None = None,
    sides: tuple[float, float] = edits.SIDES,
    seed: int = 1,
    steps: int | None = None,
    knobs: dict[str, Any] | None = None,
    out: Path | None = None,
    force: bool = False,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Outcome], dict[str, Any]]:
    """Edits `count` held-out cases of size × size pixels (the model's own size if None) and compares them with the truth.

    With `out`, each edit is kept there as it is finished, and a run that was interrupted goes on where it was; a folder of
    another run is refused, or emptied with `force`. Returns the outcomes and the report as plain JSON (`summary` says what
    is in it). Raises PaintoverError, and what the editor raises.
    """
    began = time.perf_counter()
    assets = Assets(root, "held_out", photos)
    bundle = load(model, device=device)
    size = size or bundle.size
    chosen = list(cases(assets, count, seed, sides))
    pictures = [(as_uint8(source), as_uint8(target)) for source, target in (case.render(size) for case in chosen)]
    orders = [
        Order(
            request_for(**words(case, editor), editor=editor, model=model, seed=n, steps=steps, knobs=knobs or {}),
            picture=source,
        )
        for n, (case, (source, _)) in enumerate(zip(chosen, pictures, strict=True))
    ]
    request, _ = resolve(check(orders[0]), bundle)
    about = {
        "model": model,
        "fingerprint": bundle.fingerprint,
        "editor": editor,
        "told": registry.get(editor).told,
        "knobs": request.knobs,
        "steps": request.steps,
        "size": size,
        "sides": list(sides),
        "seed": seed,
        "world": assets.fingerprint,
        "paintover": __version__,
        "code": code("scenes"),  # of one algorithm, and of scenes drawn alike
    }
    kept = Kept(out, about, force) if out is not None else None
    outcomes = []
    for n, edited, evaluations in _edited(orders, kept, device):
        outcomes.append(_compare(n, chosen[n], *pictures[n], edited, evaluations, bundle))
        if progress:
            progress(len(outcomes), count)
    outcomes.sort(key=lambda outcome: outcome.n)
    when = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": round(time.perf_counter() - began, 1)}
    return outcomes, {**about, **when, **summary(outcomes)}


def _edited(orders: list[Order], kept: Kept | None, device: str | None) -> Iterator[tuple[int, NDArray[np.uint8], int]]:
    """Number, edited picture and denoiser evaluations of each order: first those that are kept, then the others."""
    missing = {}
    for n, order in enumerate(orders):
        before = kept.get(n) if kept else None
        if before:
            yield n, before[0], int(before[1]["evaluations"])
        else:
            missing[n] = order
    results = edit_many(missing.values(), cache=PrepareCache(max_bytes=0), device=device)
    for n, result in zip(missing, results, strict=True):
        if not isinstance(result, EditResult):
            raise result
        if kept:
            kept.put(n, result)
        yield n, result.rgb_HWC, int(result.record["evaluations"])


def _compare(
    n: int,
    case: edits.Case,
    source: NDArray[np.uint8],
    target: NDArray[np.uint8],
    edited: NDArray[np.uint8],
    evaluations: int,
    bundle: Bundle,
) -> Outcome:
    inside = edits.changed(source / np.float32(255), target / np.float32(255))
    methods = {"edit": edited, "nothing": source, "codec": through_codec(target, bundle)}
    measured = {name: errors(picture, target, {"inside": inside, "outside": ~inside}) for name, picture in methods.items()}
    same = untouched(edited, source, ~inside)
    return Outcome(n, case.kind, case.instruction, source, target, edited, measured, same, evaluations)
