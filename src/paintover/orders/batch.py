"""Batch: a file of requests, one a line, edited together; killed at any moment, it goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from paintover import picture as pictures
from paintover.editors.knobs import brief
from paintover.errors import PaintoverError, PictureError, RequestError
from paintover.orders import media
from paintover.orders import tuned as of_tuning
from paintover.orders.order import Order, beside, check, request_for, resolve
from paintover.orders.redo import request_in
from paintover.orders.run import USUAL, edit_many
from paintover.orders.sentinel import Sentinel
from paintover.picture.limits import Limits
from paintover.request import EditRequest, EditResult

if TYPE_CHECKING:
    from paintover.engine.cache import PrepareCache
    from paintover.tuning.store import Tuning

# What a line may say: the request's own words, and the name of its output.
_WORDS = frozenset(EditRequest.model_fields) - {"format", "model_fingerprint"}
_WORDS -= {"picture_sha256", "mask_sha256", "tuned_sha256"}
# And what is asked of several candidates, by the names that `Sentinel.asked` gives it.
_ASKED = {
    "candidates": "candidates",
    "min_score": "min_score",
    "scorer": "scorer",
    "preservation_weight": "weight",
    "keep_candidates": "keep",
}


@dataclass(frozen=True, slots=True)
class Line:
    """What became of one line (counted from 1). `ours`: it failed by a fault of ours, not of the input."""

    line: int
    status: Literal["done", "skipped", "failed"]
    out: str | None = None
    error: str | None = None
    ours: bool = False
    record: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """How many lines were edited, skipped because they had been before, and failed; `results` tells of each."""

    done: int
    skipped: int
    failed: int
    failed_by_us: int
    results: Path


def batch(
    jobs: str | Path,
    out: str | Path,
    *,
    together: int = 8,
    force: bool = False,
    limits: Limits = Limits(),
    cache: PrepareCache | None = None,
    device: str | None = None,
    on_line: Callable[[Line], None] | None = None,
) -> Report:
    """Edits every line of `jobs` (JSON objects) into the folder `out`, `together` at a time in shared denoiser calls.

    A line: {"picture": "a.jpg", "instruction": "...", "editor": "sdedit", "knobs": {"strength": 0.5}, "seed": 3,
    "out": "a-3.png"}; pictures and masks are named from the folder of `jobs`, `out` is a plain file name (if it is left
    out: the line's number and the picture's name). "references": {"audio1": "moo.ogg"} are what the instruction speaks of,
    named from that folder too; the editor is then `any2pix` where the line names none. "tuned" names a tuning, whose picture,
    editor and model are taken where the line names none. A line whose output was made by the same request, picture, references
    and model is skipped; one that fails is reported and does not stop the others. `out`/results.jsonl tells of each line.

    Raises RequestError when `jobs` cannot be read or `out` cannot be made.
    """
    jobs, out = Path(jobs), Path(out)
    try:
        texts = jobs.read_text(encoding="utf-8-sig").split("\n")  # not splitlines: JSON may hold other line ends, as U+2028
        out.mkdir(parents=True, exist_ok=True)
        (out / "results.jsonl").write_text("")
        results = (out / "results.jsonl").open("a", encoding="utf-8")  # appending: lines of two batches at once stay whole
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"{jobs} into {out}: {reason}; name a text file of jobs and a folder for the pictures") from None
    counts = {"done": 0, "skipped": 0, "failed": 0}
    by_us = 0
    with results:
        numbered = ((n, text) for n, text in enumerate(texts, start=1) if text.strip())
        orders = _orders(numbered, jobs.parent, out, force, limits)
        while chunk := list(islice(orders, together)):
            for line in _chunk(chunk, cache, device):
                counts[line.status] += 1
                by_us += line.ours
                results.write(json.dumps({key: value for key, value in asdict(line).items() if value is not None}) + "\n")
                results.flush()
                if on_line is not None:
                    on_line(line)
    return Report(**counts, failed_by_us=by_us, results=out / "results.jsonl")


def _orders(
    numbered: Iterable[tuple[int, str]], folder: Path, out: Path, force: bool, limits: Limits
) -> Iterator[tuple[int, Order | Exception]]:
    """Each line as an order, or what is wrong with it."""
    taken: dict[str, int] = {}
    for n, text in numbered:
        try:
            request, name, tuning, sentinel = _read(n, text, folder)
            if name in taken:
                raise RequestError(f"out {name!r} is that of line {taken[name]} already; give each line its own")
            taken[name] = n
            yield n, Order(request, out=out / name, force=force, limits=limits, tuning=tuning, sentinel=sentinel)
        except PaintoverError as error:
            yield n, error


def _read(n: int, text: str, folder: Path) -> tuple[EditRequest, str, Tuning | None, Sentinel | None]:
    """A line's request, the plain file name of its output, the tuning that it names, and what is asked of its candidates."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"not JSON ({error}); write one object on the line") from None
    if not isinstance(said, dict):
        raise RequestError('not a JSON object; write {"picture": "...", "instruction": "..."}')
    name = said.pop("out", None)
    sentinel = Sentinel.asked(**{ours: said.pop(word) for word, ours in _ASKED.items() if word in said})
    unknown = sorted(set(said) - _WORDS)
    if unknown:
        raise RequestError(f"{unknown[0]!r} is not a word of a job; it takes {', '.join(sorted({*_WORDS, *_ASKED}))}, out")
    for word in ("picture", "mask"):
        if isinstance(said.get(word), str) and said[word].strip():  # the folder is none of them
            said[word] = str(folder / said[word])
    if "references" in said:
        given = said["references"] or None  # JSON's null
        named = isinstance(given, dict) and all(isinstance(path, str) and path.strip() for path in given.values())
        if given is not None and not named:
            raise RequestError(f'references is {brief(given)}; write {{"audio1": "moo.ogg"}}')
        said["references"] = media.told({name: str(folder / path) for name, path in (given or {}).items()})
        if said["references"] and not said.get("editor"):
            said["editor"] = media.USUAL
    tuned = said.get("tuned")
    tuning = of_tuning.found(of_tuning.in_folder(tuned, folder)) if isinstance(tuned, str) else None
    if tuning is not None:
        said |= of_tuning.asked(tuning, said.get("editor"), said.get("model"), USUAL)
        said.setdefault("instruction", of_tuning.words(tuning, None))
    request = request_for(**said)
    if name is None:
        about = request.picture or (tuning.record.name if tuning is not None else "imagined")
        name = f"{n:05d}-{Path(about).stem}.png"
    if not isinstance(name, str) or Path(name).name != name or name.startswith("."):
        raise RequestError(f"out is {name!r}; it takes a plain file name, such as {n:05d}.png")
    return request, name, tuning, sentinel


def _chunk(chunk: list[tuple[int, Order | Exception]], cache: PrepareCache | None, device: str | None) -> list[Line]:
    lines: dict[int, Line] = {}
    orders: dict[int, Order] = {}
    for n, order in chunk:
        try:
            if isinstance(order, Exception):
                raise order
            if not order.force and _made_before(order, device):
                lines[n] = Line(n, "skipped", str(order.out))
            else:
                orders[n] = order
        except Exception as error:
            lines[n] = _failed(n, error)
    outcomes = edit_many(orders.values(), together=len(chunk), cache=cache, device=device)
    for (n, order), outcome in zip(orders.items(), outcomes, strict=True):
        if isinstance(outcome, EditResult):
            lines[n] = Line(n, "done", str(order.out), record=outcome.record)
        else:
            lines[n] = _failed(n, outcome)
    return [lines[n] for n, _ in chunk]


def _made_before(order: Order, device: str | None) -> bool:
    """Whether the output is there and came of this very request, by the same model, from the same picture and mask."""
    assert order.out is not None
    if not os.path.exists(order.out):
        return False
    try:
        before = request_in(order.out, order.limits)
        if order.sentinel is not None:
            before = _first_of(order.sentinel, before, order)
    except PictureError:
        return False  # not ours: `check` will refuse to overwrite it
    checked = check(replace(order, out=None))
    from paintover.models.bundle import load

    bundle = load(order.request.model, device=device)
    now, _ = resolve(checked, bundle)
    # Where a file lies is no part of what it is.
    return _placeless(now) == _placeless(before)


def _placeless(request: EditRequest) -> EditRequest:
    spoken = tuple(one.model_copy(update={"path": None}) for one in request.references)
    return request.model_copy(update={"picture": None, "mask": None, "tuned": None, "references": spoken})


def _first_of(sentinel: Sentinel, before: EditRequest, order: Order) -> EditRequest:
    """The request of an output as it was asked for: of its first candidate. Raises PictureError where others were asked for."""
    assert order.out is not None
    out = order.out
    record = pictures.read_provenance(out, order.limits).get("record", {})
    seeds = [order.request.seed + n for n in range(sentinel.candidates)]
    try:
        scores = {one["seed"]: one.get("score") for one in record["candidates"]}
        same = list(scores) == seeds and record["scorer"]["preservation_weight"] == sentinel.weight
        same &= record["scorer"]["asked"] == sentinel.scorer
        enough = sentinel.min_score is None or scores[before.seed] >= sentinel.min_score
    except (KeyError, TypeError):
        same = enough = False
    if not (same and enough) or not all(os.path.lexists(beside(out, name)) for name in sentinel.names):
        raise PictureError(f"{out}: is not the best of these candidates")
    return before.model_copy(update={"seed": order.request.seed})


def _failed(n: int, error: Exception) -> Line:
    ours = not isinstance(error, PaintoverError)
    message = f"{type(error).__name__}: {error}" if ours else str(error)
    return Line(n, "failed", error=" ".join(message.split()), ours=ours)
