"""Tune once, edit often: a model bent to a picture, or a few, in a handle that edits with it and can throw it away."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paintover import picture as pictures
from paintover.editors import knobs as knobs_of
from paintover.editors import registry
from paintover.editors.tuned import Tuned
from paintover.errors import KnobError, ModelError, RequestError
from paintover.orders import order as order_of
from paintover.orders import traces
from paintover.orders import tuned as of_tuning
from paintover.orders.order import Checked, Order, path_of, pixels_of, request_for
from paintover.orders.run import edit_one, imagined
from paintover.orders.sentinel import Sentinel
from paintover.picture.limits import Limits
from paintover.request import EditResult
from paintover.tuning import store
from paintover.tuning.store import Record, Source, Tensors, Tuning

if TYPE_CHECKING:
    from paintover.engine.cache import PrepareCache
    from paintover.orders.work import Work
    from paintover.picture.open import Picture

USUAL = registry.tuners()[0]


@dataclass(eq=False)
class TunedModel:
    """A model bent to a picture: `edit` and `imagine` with it as often as wanted, then `close` it, or leave a `with`.

    One without a name is in memory alone, and gone when it is closed. One with a name is kept in the store, for `paintover
    edit --tuned NAME` too, until it is discarded or expires. notes: what may surprise. found: whether it was tuned before.
    """

    _tuning: Tuning | None
    _device: str | None = None
    _cache: PrepareCache | None = None
    notes: tuple[str, ...] = ()
    found: bool = False
    _record: Record = field(init=False)

    def __post_init__(self) -> None:
        self._record = self._open().record

    @property
    def tuning(self) -> Tuning:
        """What orders take. Raises RequestError once it is closed."""
        return self._open()

    @property
    def record(self) -> Record:
        """All that is known of the tuning."""
        return self._record

    @property
    def name(self) -> str | None:
        return None if self._record.name == store.UNNAMED else self._record.name

    @property
    def editor(self) -> str:
        return str(self._record.editor)

    @property
    def word(self) -> str:
        """What stands for the learnt thing in a caption; "" where no word does."""
        return self._record.word

    @property
    def seconds(self) -> float:
        """That the tuning took."""
        return self._record.seconds

    @property
    def expires(self) -> datetime | None:
        """When it goes unless it is used before; None: when it is closed, or discarded."""
        return self._record.expires

    def edit(
        self,
        instruction: str | None = None,
        *,
        picture: Any = None,
        editor: str | None = None,
        mask: Any = None,
        source_prompt: str | None = None,
        seed: int | None = None,
        steps: int | None = None,
        preserve: bool = True,
        out: str | Path | None = None,
        force: bool = False,
        keep_location: bool = False,
        limits: Limits = Limits(),
        on_step: Callable[[Any], None] | None = None,
        candidates: int | None = None,
        min_score: float | None = None,
        scorer: str | Path | None = None,
        preservation_weight: float | None = None,
        keep_candidates: bool = False,
        **knobs: Any,
    ) -> EditResult:
        """Edits the picture that was tuned on (or `picture`), as `paintover.edit` does, by the tuning's editor or another."""
        sentinel = Sentinel.asked(candidates, min_score, scorer, preservation_weight, keep_candidates)
        tuning = self._open()
        request = request_for(
            picture=path_of(picture),
            mask=path_of(mask),
            instruction=instruction if instruction is not None else tuning.record.caption or "",
            source_prompt=source_prompt,
            **of_tuning.asked(tuning, editor, None, USUAL),
            knobs=knobs,
            seed=seed or 0,
            steps=steps,
            preserve=preserve,
        )
        pixels = of_tuning.picture_of(tuning, limits) if picture is None else pixels_of(picture)
        target = Path(out) if out is not None else None
        order = Order(
            request,
            pixels,
            pixels_of(mask),
            target,
            force,
            keep_location,
            limits,
            on_step,
            tuning=tuning,
            sentinel=sentinel,
        )
        return edit_one(order, self._cache, self._device)

    def imagine(
        self,
        prompt: str,
        *,
        then: str | None = None,
        editor: str | None = None,
        seed: int | None = None,
        steps: int | None = None,
        out: str | Path | None = None,
        force: bool = False,
        on_step: Callable[[Any], None] | None = None,
        candidates: int | None = None,
        min_score: float | None = None,
        scorer: str | Path | None = None,
        preservation_weight: float | None = None,
        keep_candidates: bool = False,
        **knobs: Any,
    ) -> EditResult:
        """Makes a picture from words alone, as `paintover.imagine` does."""
        sentinel = Sentinel.asked(candidates, min_score, scorer, preservation_weight, keep_candidates)
        tuning = self._open()
        request = imagined(prompt, then, editor, tuning, None, knobs=knobs, seed=seed or 0, steps=steps)
        target = Path(out) if out is not None else None
        source = order_of.beside(target, "source") if target is not None and then is not None else None
        order = Order(request, out=target, force=force, on_step=on_step, out_source=source, tuning=tuning, sentinel=sentinel)
        return edit_one(order, self._cache, self._device)

    def keep(self, folder: str | Path, *, force: bool = False) -> Path:
        """Writes what was learnt into a folder, in the formats that diffusers loads; `tuned=folder` takes it up again.

        Raises RequestError where the folder exists, unless with `force`.
        """
        from paintover.models.bundle import load
        from paintover.tuning import keep

        tuning = self._open()
        record = tuning.record
        about = {"editor": record.editor, "word": record.word, "caption": record.caption, **record.knobs}
        bundle = load(str(record.model), device=self._device)
        of_tuning.check_model(tuning, bundle)
        beside = {store.RECORD: store.description(record)}
        return keep.write(Path(folder), tuning.tensors(), bundle, about, beside=beside, force=force)

    def discard(self) -> None:
        """Deletes what was learnt, from memory and from the disk."""
        name, cache = self.name, self._cache
        self.close()
        if name is not None:
            discard(name)
            traces.forget([self._record], cache)

    def close(self) -> None:
        """Gives its memory back. Without a name, nothing is left of it then; under its name it stays in the store."""
        if self._tuning is None:
            return
        if self.name is None:
            traces.forget([self._record], self._cache)
        self._tuning = self._cache = None
        store.forget()
        from paintover.tuning.apply import forget

        forget()
        gc.collect()  # networks refer to themselves
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def __enter__(self) -> TunedModel:
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()

    def _open(self) -> Tuning:
        if self._tuning is None:
            name = self._record.name
            again = "tune again" if name == store.UNNAMED else f"it may still be found by its name, {name!r} (tuned=...)"
            raise RequestError(f"this tuned model was closed; {again}")
        return self._tuning


def tune(
    picture: Any,
    *,
    editor: str = USUAL,
    name: str | None = None,
    numbered: bool = False,
    caption: str | None = None,
    model: str | Path = "builtin",
    days: float = store.DAYS,
    force: bool = False,
    limits: Limits = Limits(),
    device: str | None = None,
    on_step: Callable[[Any], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    cache: PrepareCache | None = None,
    **knobs: Any,
) -> TunedModel:
    """Bends a model to a picture, or to a few, and returns it in a handle that edits with it.

    picture: as for `edit`; or a list of some, for editors that learn from several. editor: one that tunes. name: under which
    it is kept for `days` from its last use on; None: in memory alone, until it is closed. numbered: with a number, where
    another one has the name. caption: what the result shall show, for editors that learn that too (imagic). knobs: those of
    the tuning. on_step: called with a Progress after each iteration; cancelled: asked before each, True ends it with Cancelled.
    What is interrupted goes on where it was, asked for again. force: replace a tuning of that name.

    Raises PaintoverError.
    """
    given = list(picture) if isinstance(picture, (list, tuple)) else [picture]
    system = _editor(editor)
    checked = _checked(system, given, caption, model, knobs, limits, on_step, cancelled)
    if name is not None:
        store.check_name(name)
    if not 1 / 24 <= days <= 36_500:
        raise RequestError(f"days is {days:g}; a tuning is kept for an hour (0.042) at least, and for 36500 days at most")
    files = [_file(one, opened) for one, opened in zip(given, checked.examples, strict=True)]
    # Only now: what is wrong shows at once, without the seconds that torch and a model take.
    from paintover.engine.cache import PrepareCache, shared
    from paintover.models.bundle import load
    from paintover.orders.work import begin

    traces.sweep()
    shared().sweep()
    own = cache or (shared() if name is not None else PrepareCache(max_bytes=0))  # in memory, and gone with the handle
    edits_in = cache if cache is not None or name is not None else own
    bundle = load(checked.order.request.model, device=device)
    work = begin(checked, bundle, own)
    assert work.key is not None
    if name is not None and not force:
        name = store.numbered(name, work.key) if numbered else name
        store.check_free(name, work.key)
        there = _there(name, work.key)
        if there is not None:
            return TunedModel(store.touch(there), device, edits_in, found=True)
    if name is not None:
        store.check_room(_needed(work, bundle))
    began, before = time.perf_counter(), _spent(work)
    tensors = own.find(work.key)
    if tensors is None:
        tensors = _learn(work, bundle)
    request = work.context.request
    settled = work.context.knobs.model_dump(mode="json")
    record = Record(
        name=name or store.UNNAMED,
        editor=system.name,
        knobs={knob: settled[knob] for knob in system.Tuning.model_fields},
        caption=caption,
        model=request.model,
        model_fingerprint=bundle.fingerprint,
        pictures=tuple(_source(n, one, opened) for n, (one, opened) in enumerate(zip(given, checked.examples, strict=True))),
        word=system.word(work.context),
        key=work.key,
        traces=(work.key, *work.codec_keys) if name is not None or cache is not None else (),  # else all was in memory
        cache=str(own.folder.resolve()) if cache is not None else None,
        days=None if name is None else days,
        seconds=round(before + time.perf_counter() - began, 1),
    )
    notes: list[str] = []
    tuning = None
    if name is not None:
        replaced = store.known(name) if force else None
        try:
            tuning = _written(record, tensors, files, force, notes)
        except OSError as error:
            own.keep(work.key, tensors)  # another disk, or less is needed there; else what was written last goes on
            notes.append(
                f"the tuning could not be kept ({error.strerror or error}); it is gone when this ends. Make room, and ask "
                "again: it goes on where its state was written last"
            )
            record = record.model_copy(update={"name": store.UNNAMED, "days": None, "traces": ()})  # they stay for the next try
        else:
            traces.forget([] if replaced is None else [replaced], besides=record.traces)
    if tuning is None:
        tuning = _in_memory(record, tensors, files)
    if work.context.unfinished is not None and (name is None or record.name != store.UNNAMED):
        with contextlib.suppress(OSError):
            work.context.unfinished.unlink()
    return TunedModel(tuning, device, edits_in, notes=tuple(notes))


def kept(name: str, folder: str | Path, *, force: bool = False, device: str | None = None) -> Path:
    """Writes a named tuning into a folder, as `TunedModel.keep` does. Raises RequestError, ModelError."""
    tuning = of_tuning.found(name)
    assert tuning is not None
    return TunedModel(tuning, device).keep(folder, force=force)


def discard(name: str) -> None:
    """Deletes a named tuning at once, and what the cache holds of it. Raises RequestError where there is none."""
    record = store.discard(name)
    traces.forget([] if record is None else [record])


def _editor(name: str) -> Tuned[Any]:
    system = registry.get(name)
    if not isinstance(system, Tuned):
        raise RequestError(f"{name} tunes nothing; choose one of {', '.join(registry.tuners())}")
    return system


def _checked(
    system: Tuned[Any],
    given: Sequence[Any],
    caption: str | None,
    model: str | Path,
    knobs: dict[str, Any],
    limits: Limits,
    on_step: Callable[[Any], None] | None,
    cancelled: Callable[[], bool] | None,
) -> Checked:
    """What is to be tuned, checked as far as that goes without a model: pictures are open."""
    if not given or any(one is None for one in given):
        raise RequestError(f"{system.name} learns from a picture; name one")
    if len(given) > 1 and not system.several:
        able = ", ".join(name for name in registry.tuners() if getattr(registry.get(name), "several", False))
        raise RequestError(f"{system.name} learns from one picture, and {len(given)} were given; use {able} for several")
    if system.captioned and not (caption or "").strip():
        raise RequestError(f"{system.name} learns the picture together with what it shall become; say that with --caption")
    if not system.captioned and caption is not None:
        raise RequestError(f"{system.name} takes no caption while it tunes; leave it out, and say it to each edit")
    for name in knobs:
        if name in system.Knobs.model_fields and name not in system.Tuning.model_fields:
            raise KnobError(f"{name} is no part of the tuning; leave it out here, and give it to each edit")
    knobs_of.read(system.name, system.Tuning, knobs)
    request = request_for(
        picture=path_of(given[0]), instruction=caption or "", editor=system.name, knobs=knobs, model=str(model)
    )
    opened = tuple(pictures.open(one, limits) for one in given)
    order = Order(request, pixels_of(given[0]), limits=limits, on_step=on_step, cancelled=cancelled)
    return Checked(order, system, opened[0], None, None, opened)


def _learn(work: Work, bundle: Any) -> dict[str, Any]:
    """The tuning itself, which can be interrupted and taken up again."""
    from paintover.engine.engine import Engine

    order, engine = work.checked.order, Engine(bundle.denoiser)
    made: dict[str, Any] = engine.result(engine.add(work.preparation(), order.on_step, order.cancelled))
    return {name: tensor.detach().cpu().contiguous() for name, tensor in made.items()}


def _needed(work: Work, bundle: Any) -> int:
    """Bytes that what is learnt takes on the disk, about: whole weights tell; a LoRA or a word is small."""
    if getattr(work.context.knobs, "tune", None) != "full":
        return 0
    stages = [bundle.denoiser, *([bundle.upscaler.denoiser] if bundle.upscaler is not None else [])]
    return sum(parameter.nbytes for stage in stages for parameter in stage.unet.parameters())


def _written(record: Record, tensors: dict[str, Any], files: Sequence[bytes], force: bool, notes: list[str]) -> Tuning:
    """It, kept; under another name where its own was taken while it was tuned."""
    try:
        return store.write(record, tensors, files, replacing=force)
    except RequestError:
        free = store.numbered(record.name[:60], record.key)
        notes.append(f"the name {record.name!r} was taken meanwhile; what was tuned is called {free!r}")
        return store.write(record.model_copy(update={"name": free}), tensors, files)


def _there(name: str, key: str) -> Tuning | None:
    """The very tuning under that name, if it is whole."""
    try:
        there = store.find(name)
        if there.record.key == key:
            there.tensors()
            return there
    except (RequestError, ModelError):
        pass
    return None


def _spent(work: Work) -> float:
    """Seconds that went into it before it was interrupted, as the head of its state says."""
    from paintover.tuning.unfinished import Unfinished

    return Unfinished(work.context.unfinished).spent()


def _source(n: int, given: Any, opened: Picture) -> Source:
    name = path_of(given) or opened.name
    suffix = Path(name).suffix.lower() if path_of(given) else ".png"
    return Source(name=name, sha256=opened.sha256, file=f"picture-{n + 1}{suffix if suffix[1:].isalnum() else ''}")


def _file(given: Any, opened: Picture) -> bytes:
    """A picture's own bytes; of one in memory, its pixels as a PNG."""
    if isinstance(given, (bytes, bytearray, memoryview)):
        return bytes(given)
    if path_of(given) is not None:
        data = Path(given).read_bytes()
        if hashlib.sha256(data).hexdigest() != opened.sha256:
            raise RequestError(f"{given} was changed while it was read; ask again")
        return data
    import numpy as np
    from PIL import Image

    rgb_HWC = opened.native_rgb_HWC if opened.native_rgb_HWC is not None else opened.rgb_HWC
    planes = [rgb_HWC] if opened.alpha_HW is None else [rgb_HWC, opened.alpha_HW[:, :, None]]
    stream = io.BytesIO()
    Image.fromarray(np.concatenate(planes, axis=2)).save(stream, "PNG", icc_profile=opened.metadata.icc)
    return stream.getvalue()


def _in_memory(record: Record, tensors: dict[str, Any], files: Sequence[bytes]) -> Tuning:
    from paintover.models.tensors import digest

    return Tuning(record.model_copy(update={"sha256": digest(tensors)}), None, Tensors(tensors), tuple(files))
