"""The way of a request, for one picture or many: check, begin, walk together, finish."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paintover.editors import registry
from paintover.errors import RequestError
from paintover.orders import media
from paintover.orders import tuned as of_tuning
from paintover.orders.order import Checked, Order, beside, check, path_of, pixels_of, request_for
from paintover.orders.sentinel import Sentinel
from paintover.picture.limits import Limits
from paintover.request import EditRequest, EditResult

if TYPE_CHECKING:
    from paintover.engine.cache import PrepareCache
    from paintover.tuning.store import Tuning

USUAL = registry.names()[0]  # the editor where none is named
BESIDE = "mdp-noise"  # the editor that makes a second picture beside a made one, where none is named


def edit(
    picture: Any,
    instruction: str | None = None,
    *,
    editor: str | None = None,
    model: str | Path | None = None,
    tuned: str | Path | None = None,
    mask: Any = None,
    references: Mapping[str, Any] | None = None,
    source_prompt: str | None = None,
    seed: int | None = None,
    steps: int | None = None,
    preserve: bool = True,
    out: str | Path | None = None,
    force: bool = False,
    keep_location: bool = False,
    limits: Limits = Limits(),
    device: str | None = None,
    candidates: int | None = None,
    min_score: float | None = None,
    scorer: str | Path | None = None,
    preservation_weight: float | None = None,
    keep_candidates: bool = False,
    **knobs: Any,
) -> EditResult:
    """Edits a picture as the words say and returns it at its own size.

    picture: a path, a file's bytes, a PIL image or an array (HW, HWC; uint8, or floats 0..1). mask: likewise, of the same
    size: white where the edit may go; every pixel where it is black stays as it is. seed: of the noise, 0 if not given.
    editor, model: `instruct` (with references `any2pix`) and `builtin` if not given. steps and knobs: what the model recommends
    if not given. preserve: outside of the change, keep the original's pixels bit for bit. out: where to save (.png, .webp,
    .jpg, .tiff); an existing file is replaced only with `force`; the file keeps the source's GPS position only with
    `keep_location`. limits: on what may be opened. device: None takes the fastest there is.

    references: pictures and sounds that the words speak of, {"image2": ..., "audio1": ...} for "put [image2] where one hears
    [audio1]": a path, bytes; a picture likewise as above; a sound as (samples, rate). `picture` is [image1], unless a reference
    of another name is the same file.

    tuned: a named tuning (paintover.tune), or a folder of one: editor and model are then its own if not given, and `picture`
    may be None, which is the picture that was tuned on; so may `instruction`, where a caption was learnt with it.

    candidates: of so many seeds, from `seed` on, the best is taken, and its record says why; `scorer` judges: builtin, or a
    CLIP by folder or hub name (None: the model's own encoder). The score is agreement with the words minus
    `preservation_weight` (1 if not given) times the damage outside of the edit (`orders.scores`). min_score: raises ScoreError
    where the best is below it, and saves nothing. keep_candidates: saves all of them, for out.png as out.candidate-1.png, ...

    Raises PaintoverError (PictureError, SoundError, ModelError, KnobError, RequestError) with one line that says what to do.
    """
    sentinel = Sentinel.asked(candidates, min_score, scorer, preservation_weight, keep_candidates)
    tuning = of_tuning.found(tuned)
    request = request_for(
        picture=path_of(picture),
        mask=path_of(mask),
        instruction=of_tuning.words(tuning, instruction),
        source_prompt=source_prompt,
        references=media.told(references),
        **of_tuning.asked(tuning, editor or (media.USUAL if references else None), model, USUAL),
        knobs=knobs,
        seed=seed or 0,
        steps=steps,
        preserve=preserve,
    )
    target = Path(out) if out is not None else None
    pixels = pixels_of(picture)
    if picture is None and tuning is not None:
        pixels = of_tuning.picture_of(tuning, limits)
    order = Order(request, pixels, pixels_of(mask), target, force, keep_location, limits, tuning=tuning, sentinel=sentinel)
    return edit_one(replace(order, references=media.in_memory(references)), device=device)


def imagine(
    prompt: str,
    *,
    then: str | None = None,
    editor: str | None = None,
    model: str | Path | None = None,
    tuned: str | Path | None = None,
    references: Mapping[str, Any] | None = None,
    seed: int | None = None,
    steps: int | None = None,
    out: str | Path | None = None,
    force: bool = False,
    limits: Limits = Limits(),
    device: str | None = None,
    candidates: int | None = None,
    min_score: float | None = None,
    scorer: str | Path | None = None,
    preservation_weight: float | None = None,
    keep_candidates: bool = False,
    **knobs: Any,
) -> EditResult:
    """A picture made from words alone, or from words that speak of references, at the model's own size. Arguments, knobs and
    errors as for `edit`; the editor is `imagine`, or with references `any2pix`.

    then: a caption of a second picture, made beside the first one by an editor that walks beside its source (`mdp-noise` if
    none is named). The result is the second; the first is its `shown["source"]`, and is saved as well, for out.png as
    out.source.png (the result's `files["source"]`).
    """
    sentinel = Sentinel.asked(candidates, min_score, scorer, preservation_weight, keep_candidates)
    tuning = of_tuning.found(tuned)
    spoken = media.told(references)
    request = imagined(prompt, then, editor, tuning, model, knobs=knobs, seed=seed or 0, steps=steps, references=spoken)
    target = Path(out) if out is not None else None
    source = beside(target, "source") if target is not None and then is not None else None
    order = Order(request, out=target, force=force, limits=limits, out_source=source, tuning=tuning, sentinel=sentinel)
    return edit_one(replace(order, references=media.in_memory(references)), device=device)


def imagined(
    prompt: str, then: str | None, editor: str | None, tuning: Tuning | None, model: str | Path | None, **fields: Any
) -> EditRequest:
    """The request for a picture made from words (and references), or, with `then`, for the one that is made beside it."""
    if then is None:
        editor = editor or (media.USUAL if fields.get("references") else "imagine")
        if registry.get(editor).picture not in ("never", "optional"):
            if fields.get("references"):
                raise RequestError(f"{editor} makes no picture from references; use {media.USUAL}, or leave --editor out")
            raise RequestError(f"{editor} takes a picture to another caption; say which with --then (then=...)")
        return request_for(instruction=prompt, **fields, **of_tuning.asked(tuning, editor, model, "imagine"))
    fields |= of_tuning.asked(tuning, editor or BESIDE, model, "imagine")
    if registry.get(editor or BESIDE).picture != "either":
        able = ", ".join(name for name in registry.names() if registry.get(name).picture == "either")
        raise RequestError(f"{editor} does not walk beside a picture that is made; use one of {able}")
    if not prompt.strip():
        raise RequestError("the prompt is empty; say what the first picture shows")
    return request_for(instruction=then, source_prompt=prompt, **fields)


def edit_one(order: Order, cache: PrepareCache | None = None, device: str | None = None) -> EditResult:
    """One order, its errors raised."""
    [outcome] = edit_many([order], cache=cache, device=device)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def edit_many(
    orders: Iterable[Order], *, together: int = 8, cache: PrepareCache | None = None, device: str | None = None
) -> Iterator[EditResult | Exception]:
    """Edits many pictures, `together` at a time in shared denoiser calls; one outcome per order, in order.

    An order that fails or is cancelled gives its exception as outcome and leaves its neighbours alone. A result depends on
    its own order only, whatever else is in the batch. An order with candidates counts as so many, which are never parted.
    """
    chunk: list[Order] = []
    for order in orders:
        if chunk and sum(map(_count, (*chunk, order))) > together:
            yield from _together(chunk, cache, device)
            chunk = []
        chunk.append(order)
        if sum(map(_count, chunk)) >= together:
            yield from _together(chunk, cache, device)
            chunk = []
    if chunk:
        yield from _together(chunk, cache, device)


def _count(order: Order) -> int:
    return order.sentinel.candidates if order.sentinel is not None else 1


def _together(orders: list[Order], cache: PrepareCache | None, device: str | None) -> list[EditResult | Exception]:
    outcomes: dict[int, EditResult | Exception] = {}
    checked: dict[int, Checked] = {}
    for n, order in enumerate(orders):
        try:
            checked[n] = check(order)
        except Exception as error:
            outcomes[n] = error
    if checked:
        # Only now: what is wrong with a request shows at once, without the seconds that torch and a model take.
        from paintover.engine.cache import shared
        from paintover.orders.contest import compete

        outcomes |= compete(checked, cache or shared(), device)
    return [outcomes[n] for n in range(len(orders))]
