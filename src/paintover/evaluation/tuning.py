"""Editors that are tuned on a picture, compared with each other and with SDEdit: fidelity against expressiveness.

Held-out scenes whose true edit leaves something alone: there is an outside, and things in it that stay. Each method is tuned
once a scene, and then edits at every setting of its dial, told the caption of the target. What is measured is in `curves`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from paintover import __version__
from paintover.editors import registry
from paintover.engine.cache import PrepareCache
from paintover.errors import PaintoverError
from paintover.evaluation.captioned import cases
from paintover.evaluation.claims import check as check_claims
from paintover.evaluation.compare import Picture, as_uint8
from paintover.evaluation.curves import Curve, found, plain
from paintover.evaluation.dials import Swept, dials
from paintover.evaluation.edited import Scene
from paintover.evaluation.kept import Kept
from paintover.evaluation.metrics import l1, ssim
from paintover.evaluation.standing import mean_and_error
from paintover.models.bundle import load
from paintover.orders.code import code
from paintover.orders.order import Order, check, request_for, resolve
from paintover.orders.run import edit_one
from paintover.scenes import edits
from paintover.scenes.assets import Assets

LEAST = 0.005  # of the picture is what the things that stay must cover
MANY = 10_000  # cases to look through


@dataclass(frozen=True, eq=False)
class Staying(Scene):
    """A scene, and where its things are that the edit leaves alone."""

    kept: NDArray[np.bool_]

    def measure(self, picture: Picture) -> dict[str, float]:
        """What `curves` speaks of."""
        edit, source, target = (pixels / 255 for pixels in (picture, self.source, self.target))
        return {
            "outside": l1(edit, source, ~self.inside),
            "gain": l1(source, target, self.inside) - l1(edit, target, self.inside),
            "kept_l1": l1(edit, source, self.kept),
            "kept_ssim": ssim(edit, source, self.kept),
            "target_l1": l1(edit, target, self.inside),
        }


@dataclass(frozen=True, eq=False)
class Turned:
    """One scene at one setting of a method's dial: the picture, what was measured, seconds; or why it failed."""

    method: str
    v: int
    scene: Staying
    picture: Picture | None = None
    measured: dict[str, float] | None = None
    cost: dict[str, float | None] | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Bench:
    """The scenes and the settings; `turn` makes the edits of one scene by one method that are not there yet."""

    root: Path
    photos: Path | None
    model: str
    count: int
    size: int
    seed: int
    steps: int | None
    out: Path
    device: str | None

    @cached_property
    def scenes(self) -> list[Staying]:
        return list(islice(_scenes(Assets(self.root, "held_out", self.photos), self.size, self.seed), self.count))

    def order(self, scene: Scene, dial: Swept, v: int) -> Order:
        words, knobs = scene.about.case.target_caption, {dial.knob: dial.values[v]}
        request = request_for(
            instruction=words, editor=dial.editor, model=self.model, seed=scene.n, steps=self.steps, knobs=knobs
        )
        return Order(request, picture=scene.source)

    def kept(self, dial: Swept, v: int, about: dict[str, Any], force: bool = False) -> Kept:
        return Kept(self.out / "methods" / dial.editor / f"{dial.knob} {dial.values[v]:g}", about, force)

    def turn(self, i: int, dial: Swept, about: list[dict[str, Any]]) -> str | None:
        """The first failure, if there is one: then that edit is not kept, the others are."""
        scene, failure = self.scenes[i], None
        kept = [self.kept(dial, v, told) for v, told in enumerate(about)]
        missing = [v for v, one in enumerate(kept) if one.get(scene.n) is None]
        folder = self.out / "prepare" / f"{dial.editor} {scene.n}"  # of its own, so that every tuning is one and is timed
        resumed = any(folder.rglob("*.*"))
        for n, v in enumerate(missing):
            try:
                result = edit_one(self.order(scene, dial, v), PrepareCache(folder), self.device)
            except Exception as error:  # any: the others' results are worth having
                failure = failure or f"{type(error).__name__}: {error}"
                continue
            seconds = result.record["seconds"]
            tunes = dial.editor in registry.tuners() and not n and not resumed
            cost = {"tune": seconds["prepare"] if tunes else None, "edit": seconds["walk"] + seconds["close"]}
            kept[v].put(scene.n, replace(result, record={**result.record, "cost": cost}))
        shutil.rmtree(folder, ignore_errors=True)
        return failure


def run(
    root: Path,
    photos: Path | None,
    *,
    out: Path,
    model: str = "builtin",
    names: Sequence[str] | None = None,
    values: int | None = None,
    count: int = 8,
    size: int | None = None,
    seed: int = 1,
    steps: int | None = None,
    force: bool = False,
    device: str | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Turned], dict[str, Any]]:
    """Edits `count` scenes by each method of `names` (all if None). Returns the outcomes and the report as plain JSON.

    values: how many settings of each dial (all if None). jobs: processes that share the scenes, and the cores. Each edit is
    kept in `out` as it is finished: an interrupted run goes on where it was, within a tuning even, and one more method costs
    only itself. Raises PaintoverError for what is wrong with all.
    """
    began = time.perf_counter()
    chosen = dials(names, values)
    bundle = load(model, device=device)
    bench = Bench(root, photos, model, count, size or bundle.size, seed, steps, out, device)
    scenes = bench.scenes
    about: dict[str, Any] = {
        "model": model,
        "fingerprint": bundle.fingerprint,
        "size": bench.size,
        "seed": seed,
        "world": Assets(root, "held_out", photos).fingerprint,
        "paintover": __version__,
        "code": code("scenes"),  # of one algorithm, and of scenes drawn alike
    }
    told = {dial.editor: [_told(bench, dial, v, bundle) for v in range(len(dial.values))] for dial in chosen}
    kept = {d.editor: [bench.kept(d, v, about | said, force) for v, said in enumerate(told[d.editor])] for d in chosen}
    tasks = [(i, dial, [about | said for said in told[dial.editor]]) for i in range(count) for dial in chosen]
    failures: dict[tuple[int, str], str] = {}
    for done, (i, method, failure) in enumerate(_all(bench, tasks, jobs), 1):
        if failure is not None:
            failures[scenes[i].n, method] = failure
        if progress:
            progress(done, len(tasks))
    outcomes = [
        _outcome(dial.editor, v, scene, kept[dial.editor][v].get(scene.n), failures.get((scene.n, dial.editor)))
        for scene in scenes
        for dial in chosen
        for v in range(len(dial.values))
    ]
    when = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": round(time.perf_counter() - began, 1)}
    where = {"device": str(bundle.denoiser.device), "jobs": jobs}
    return outcomes, {**about, **where, **when, "count": count, **report(outcomes, chosen), "methods": told}


def report(outcomes: Sequence[Turned], chosen: Sequence[Swept]) -> dict[str, Any]:
    """Curves, equal levels, seconds, claims and failures, as plain JSON. Scenes on which any edit failed count for none."""
    failed = {o.scene.n for o in outcomes if o.measured is None}
    known = [o for o in outcomes if o.scene.n not in failed]
    scenes = list({o.scene.n: o.scene for o in known}.values())
    failures: dict[str, list[str]] = {}
    for o in outcomes:
        if o.measured is None:
            failures.setdefault(o.method, []).append(f"scene {o.scene.n}: {o.failure}")
    if not scenes:
        return {"scenes": [], "curves": {}, "equal": {}, "seconds": {}, "claims": [], "failures": failures}
    idle = float(np.mean([l1(scene.source / 255, scene.target / 255, scene.inside) for scene in scenes]))
    curves, seconds, tuning = {}, {}, {}
    for dial in chosen:
        mine = [[o for o in known if o.method == dial.editor and o.v == v] for v in range(len(dial.values))]
        names = mine[0][0].measured or {}
        measured = {name: np.array([[(o.measured or {})[name] for o in row] for row in mine]) for name in names}
        curves[dial.editor] = Curve(dial.editor, dial.values, measured, idle)
        costs = [(o.scene.n, o.cost) for row in mine for o in row if o.cost]
        tuned = {n: float(cost["tune"]) for n, cost in costs if cost["tune"] is not None}
        tunes, edited = list(tuned.values()), [float(cost["edit"]) for _, cost in costs if cost["edit"] is not None]
        if len(tuned) == len(scenes):
            tuning[dial.editor] = np.array([tuned[scene.n] for scene in scenes])
        seconds[dial.editor] = {
            name: dict(zip(("mean", "se"), map(plain, mean_and_error(taken)), strict=True))
            for name, taken in (("tune", tunes), ("edit", edited))
        }
    about = [
        {"n": s.n, "series": s.about.series, "kind": s.about.case.kind, "caption": s.about.case.target_caption} for s in scenes
    ]
    knobs = {dial.editor: dial.knob for dial in chosen}
    claims = check_claims(curves, tuning)
    return {
        "scenes": about, "idle": round(idle, 5), "dials": knobs, **found(curves), "seconds": seconds, "claims": claims,
        "failures": failures,
    }  # fmt: skip


def _scenes(assets: Assets, size: int, seed: int) -> Iterator[Staying]:
    """The cases of the table over editors in which something stays as it is, and a thing does: looks change everything."""
    for n, about in enumerate(cases(assets, MANY, seed)):
        before, after = about.case.before, about.case.after
        if before is None or before.look != after.look:
            continue
        source, target = about.case.render(size)
        inside = edits.changed(source, target)
        kept = np.zeros_like(inside)
        for thing in before.objects:
            if thing in after.objects:
                without = replace(before, objects=tuple(other for other in before.objects if other is not thing))
                kept |= edits.changed(without.render(size), source) & ~inside
        if kept.mean() >= LEAST:
            yield Staying(n, about, as_uint8(source), as_uint8(target), inside, kept)


def _told(bench: Bench, dial: Swept, v: int, bundle: Any) -> dict[str, Any]:
    """The setting as it is run, for the report and for telling kept edits of another setting."""
    said = {"editor": dial.editor, "paper": registry.get(dial.editor).paper}
    try:
        request, _ = resolve(check(bench.order(bench.scenes[0], dial, v)), bundle)
    except PaintoverError:  # each edit will say so
        return said | {"knobs": {dial.knob: dial.values[v]}, "steps": bench.steps}
    return said | {"knobs": request.knobs, "steps": request.steps}


def _outcome(method: str, v: int, scene: Staying, before: Any, failure: str | None) -> Turned:
    if before is None:
        return Turned(method, v, scene, failure=failure or "not made")
    picture, record = before
    return Turned(method, v, scene, picture, scene.measure(picture), record.get("cost"))


_Task = tuple[int, Swept, list[dict[str, Any]]]
_here: Bench | None = None  # in a process that helps


def _all(bench: Bench, tasks: list[_Task], jobs: int) -> Iterator[tuple[int, str, str | None]]:
    """Every task's scene, method and failure, as they are finished."""
    if jobs == 1:
        for i, dial, about in tasks:
            yield i, dial.editor, bench.turn(i, dial, about)
        return
    threads = max(1, torch.get_num_threads() // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), _begin, (replace(bench), threads)) as pool:
        under_way = {pool.submit(_turn, *task): task for task in tasks}
        try:
            for future in as_completed(under_way):
                i, dial, _ = under_way[future]
                yield i, dial.editor, future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(bench: Bench, threads: int) -> None:
    global _here
    _here = bench
    torch.set_num_threads(threads)


def _turn(i: int, dial: Swept, about: list[dict[str, Any]]) -> str | None:
    assert _here is not None, "a process begins with its bench"
    return _here.turn(i, dial, about)
