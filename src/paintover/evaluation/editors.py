"""The table over editors: the same held-out scenes edited by each of them, told the same captions, with errors and costs.

Each edit goes the product's way, alone. On the first scenes (`TIMED`; one for the published forms, some of which are slow)
it is made twice: cold, with nothing known of the picture, and warm, the same picture with other words, so that what is
prepared once is told apart from what every edit pays. On the others a scene's editors share what they prepare alike, which
changes no result.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from paintover import __version__
from paintover.editors import registry
from paintover.engine.cache import PrepareCache
from paintover.errors import PaintoverError
from paintover.evaluation.captioned import Captioned, cases
from paintover.evaluation.claim import check as check_claim
from paintover.evaluation.columns import Column, columns
from paintover.evaluation.compare import Picture, as_uint8, through_codec, untouched
from paintover.evaluation.edited import CODEC, NOTHING, Edited, Scene
from paintover.evaluation.kept import Kept
from paintover.evaluation.standing import standing
from paintover.models.bundle import load
from paintover.orders.code import code
from paintover.orders.order import Order, check, request_for, resolve
from paintover.orders.run import edit_one
from paintover.request import EditResult
from paintover.scenes import edits
from paintover.scenes.assets import Assets

TIMED = 3  # scenes


def run(
    root: Path,
    photos: Path | None,
    *,
    model: str = "builtin",
    names: list[str] | None = None,
    count: int = 16,
    size: int | None = None,
    seed: int = 1,
    steps: int | None = None,
    out: Path | None = None,
    force: bool = False,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Edited], dict[str, Any]]:
    """Edits `count` scenes in each column of `names` (all if None). Returns the outcomes and the report as plain JSON.

    With `out`, each edit is kept in a folder of its column as it is finished; an interrupted run goes on where it was, and one
    more column costs only itself. An edit that fails is told as failed. Raises PaintoverError for what is wrong with all.
    """
    began = time.perf_counter()
    chosen = columns(names)
    assets = Assets(root, "held_out", photos)
    bundle = load(model, device=device)
    size = size or bundle.size
    scenes = [_scene(n, one, size) for n, one in enumerate(cases(assets, count + 1, seed))]
    about: dict[str, Any] = {
        "model": model,
        "fingerprint": bundle.fingerprint,
        "size": size,
        "seed": seed,
        "world": assets.fingerprint,
        "paintover": __version__,
        "code": code("scenes"),  # of one algorithm, and of scenes drawn alike
    }
    kept, told = {}, {}
    for column in chosen:
        recipe = registry.get(column.editor)
        try:
            request, _ = resolve(check(_order(column, scenes[0], scenes[0], model, steps)), bundle)
            said = {"editor": column.editor, "told": recipe.told, "knobs": request.knobs, "steps": request.steps}
        except PaintoverError:  # each edit will say so
            said = {"editor": column.editor, "told": recipe.told, "knobs": column.knobs, "steps": steps}
        told[column.name] = said | {"paper": recipe.paper}
        kept[column.name] = Kept(out / "columns" / column.name, about | said, force) if out is not None else None
    outcomes: list[Edited] = []
    with contextlib.suppress(Exception):  # the first edit of a process pays for things that no edit should be charged with
        _edit(chosen[0], scenes[0], scenes[0], model, 2, PrepareCache(max_bytes=0), device)
    for scene, other in pairwise(scenes):
        cache = PrepareCache(max_bytes=0)
        for name, codec in ((NOTHING, scene.source), (CODEC, through_codec(scene.target, bundle))):
            outcomes.append(_outcome(name, scene, codec))
        for column in chosen:
            outcomes.append(_made(column, scene, other, model, steps, cache, device, kept[column.name]))
            if progress:
                progress(sum(o.column in told for o in outcomes), count * len(chosen))
    where = {"device": str(bundle.denoiser.device)}
    when = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": round(time.perf_counter() - began, 1)}
    found = {**standing(outcomes, told), "claim": check_claim(outcomes)}
    return outcomes, {**about, **where, **when, "count": count, "columns": told, **found}


def _made(
    column: Column,
    scene: Scene,
    other: Scene,
    model: str,
    steps: int | None,
    cache: PrepareCache,
    device: str | None,
    kept: Kept | None,
) -> Edited:
    """The edit: as it is kept, or made now. `other`: whose words the second edit of the picture is told."""
    before = kept.get(scene.n) if kept else None
    if before:
        return _outcome(column.name, scene, before[0], before[1].get("cost"))
    timed = scene.n < (1 if column.knobs else TIMED)
    here = PrepareCache(max_bytes=0) if timed else cache
    try:
        result, cold = _edit(column, scene, scene, model, steps, here, device)
        cost = {"cold": cold, "warm": _edit(column, scene, other, model, steps, here, device)[1]} if timed else None
    except Exception as error:  # any: the others' results are worth having
        return Edited(column.name, scene, failure=f"{type(error).__name__}: {error}")
    result = replace(result, record={**result.record, "cost": cost})
    if kept:
        kept.put(scene.n, result)
    return _outcome(column.name, scene, result.rgb_HWC, cost)


def _edit(
    column: Column, scene: Scene, told: Scene, model: str, steps: int | None, cache: PrepareCache, device: str | None
) -> tuple[EditResult, dict[str, float]]:
    """The scene's picture edited as `told` says, and what that cost."""
    order = _order(column, scene, told, model, steps)
    began = time.perf_counter()
    result = edit_one(order, cache=cache, device=device)
    seconds = time.perf_counter() - began
    return result, {"evaluations": result.record["evaluations"], "seconds": round(seconds, 3)}


def _order(column: Column, scene: Scene, told: Scene, model: str, steps: int | None) -> Order:
    case = scene.about.case
    words = column.words(case.caption, told.about.case.target_caption, told.about.case.instruction)
    request = request_for(**words, editor=column.editor, model=model, seed=scene.n, steps=steps, knobs=column.knobs)
    return Order(request, picture=scene.source)


def _outcome(column: str, scene: Scene, picture: Picture, cost: dict[str, Any] | None = None) -> Edited:
    return Edited(column, scene, picture, scene.errors(picture), untouched(picture, scene.source, ~scene.inside), cost)


def _scene(n: int, about: Captioned, size: int) -> Scene:
    source, target = (as_uint8(picture) for picture in about.case.render(size))
    return Scene(n, about, source, target, edits.changed(source / np.float32(255), target / np.float32(255)))
