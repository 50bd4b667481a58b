"""Order: one request with what it is about, checked as far as that goes without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from paintover import picture as pictures
from paintover.editors import knobs, registry
from paintover.editors.editor import Editor
from paintover.errors import KnobError, RequestError
from paintover.orders import media
from paintover.orders import tuned as of_tuning
from paintover.orders.sentinel import CHARACTERS, Sentinel
from paintover.picture.limits import Limits
from paintover.request import EditRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from paintover.models.bundle import Bundle
    from paintover.picture.open import Picture
    from paintover.sound.open import Sound
    from paintover.tuning.store import Tuning


MOST_CHARACTERS = 4000  # no text encoder here reads that many, and every output file carries them
_EMPTY = {
    "instruction": 'the instruction is empty; say what should change, for example "make it look like dusk"',
    "caption": 'the caption is empty; say what the result should show, for example "a meadow at dusk"',
}
RECORD_CHARACTERS = 3000  # what the model's part of the provenance takes, generously


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """A request and how to serve it.

    picture: what to open where it is no file that the request names: bytes, a PIL image, an array; or one that is open.
    mask:    likewise.
    references: likewise, by name.
    out:     where to save; None returns the result without saving. An existing file is replaced only with `force`.
    show: also save masks that the editor shows, beside `out`: OUT.mask.png, and OUT.mask-1.png, ... where it shows several.
    on_step: called with each step's Report; cancelled: asked between steps, True ends this edit with Cancelled.
    out_source: where to save the picture that was made first, with `out`, where the editor makes one.
    tuning: what the model was bent by, where it is found already, or has no name that the request could give.
    sentinel: what is asked of several candidates, of which the best is taken; None: the request's seed is.
    """

    request: EditRequest
    picture: Any = None
    mask: Any = None
    out: Path | None = None
    force: bool = False
    keep_location: bool = False
    limits: Limits = field(default_factory=Limits)
    on_step: Callable[[Any], None] | None = None
    cancelled: Callable[[], bool] | None = None
    out_source: Path | None = None
    show: bool = False
    tuning: Tuning | None = None
    sentinel: Sentinel | None = None
    references: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Checked:
    """An order that nothing is wrong with, as far as can be told without its model: picture, mask and references are open.

    examples: pictures to learn from, where the editor is to tune the model to several.
    media: what the instruction speaks of, by name, and the picture, for an editor that takes references.
    """

    order: Order
    editor: Editor[Any]
    picture: Picture | None
    mask_HW: NDArray[np.float32] | None
    tuning: Tuning | None = None
    examples: tuple[Picture, ...] = ()
    media: Mapping[str, Picture | Sound] = field(default_factory=dict)


def path_of(source: Any) -> str | None:
    """What a request names a picture, a mask or a model by; None for one in memory."""
    return str(source) if isinstance(source, (str, Path)) else None


def pixels_of(source: Any) -> Any:
    """What an order carries of it beside the request: one in memory itself; None for one that has a name."""
    return None if isinstance(source, (str, Path)) else source


def request_for(**fields: Any) -> EditRequest:
    """An EditRequest; what pydantic objects to becomes a one-line RequestError."""
    try:
        return EditRequest(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "request"
        raise RequestError(f"{name} is {knobs.brief(first['input'])}: {first['msg'].lower()}") from None


def check(order: Order) -> Checked:
    """Checks everything that needs no model, cheapest first, and opens the picture. Raises a PaintoverError."""
    request = order.request
    editor = registry.get(request.editor)
    _check_kinds(request, editor)
    knobs.read(editor.name, editor.Knobs, request.knobs)
    tuning = order.tuning or of_tuning.found(request.tuned)
    if tuning is not None:
        of_tuning.check(tuning, editor, request)
    if editor.told == "nothing":
        if request.instruction:
            raise RequestError(f"{editor.name} takes no words of what should change; leave them out")
    elif not request.instruction.strip():
        raise RequestError(_EMPTY[editor.told])
    for name, text in {"instruction": request.instruction, "source prompt": request.source_prompt or ""}.items():
        _check_text(name, text)  # a knob's text has bounds of its own
    if request.source_prompt is not None and not editor.takes_source_prompt:
        able = ", ".join(name for name in registry.names() if registry.get(name).takes_source_prompt)
        raise RequestError(f"{editor.name} takes no source prompt; leave it out, or use an editor that does ({able})")
    source = order.picture if order.picture is not None else request.picture
    made = editor.picture == "either" and (request.source_prompt or "").strip()
    if source is None and tuning is not None and editor.picture not in ("never", "optional") and not made:
        source = of_tuning.picture_of(tuning, order.limits)
    media.check(request, editor, source is not None)
    if order.sentinel is not None:
        order.sentinel.check(request, editor, order.out is not None)
    if order.out is not None:
        pictures.check_target(order.out, order.force)
        besides = order.sentinel.names if order.sentinel is not None else []
        for name in (*(editor.shows(request.instruction) if order.show else ()), *besides):
            pictures.check_target(beside(order.out, name), order.force)
    if order.out_source is not None:
        pictures.check_target(order.out_source, order.force)
    if source is None and editor.picture in ("either", "optional"):
        if editor.picture == "either" and not (request.source_prompt or "").strip():
            raise RequestError(f"{editor.name} edits a picture; name one, or say with a source prompt which one to make first")
        if request.mask is not None or order.mask is not None:
            raise RequestError("a mask goes with a picture; leave it out where the picture is made from words")
        _check_room(order, None)
        return Checked(order, editor, None, None, tuning, media=_media_of(order, editor, None))
    if editor.picture == "never":
        if source is not None or order.mask is not None or request.mask is not None:
            raise RequestError(
                f"{editor.name} makes a picture from words alone; leave picture and mask out (paintover {editor.name})"
            )
        _check_room(order, None)
        return Checked(order, editor, None, None, tuning)
    if source is None:
        raise RequestError(f"{editor.name} edits a picture; name one")
    picture = source if isinstance(source, pictures.Picture) else pictures.open(source, order.limits)
    if tuning is not None:
        of_tuning.check_picture(tuning, editor, picture)
    if order.out is not None:
        transparent = picture.alpha_HW is not None and int(picture.alpha_HW.min()) < 255
        pictures.check_target(order.out, order.force, transparent, picture.size_HW)
    _check_room(order, picture.metadata)
    mask = order.mask if order.mask is not None else request.mask
    if mask is not None and not request.preserve:
        raise RequestError(
            "a mask keeps what is outside of it, but preserve=False (--no-preserve) keeps nothing; leave one of them out"
        )
    spoken = _media_of(order, editor, picture)
    if mask is None:
        return Checked(order, editor, picture, None, tuning, media=spoken)
    mask_HW = pictures.open_mask(mask, picture.size_HW, order.limits)
    if not mask_HW.any():
        raise RequestError("the mask is black everywhere, so nothing may change; paint white where the edit belongs")
    return Checked(order, editor, picture, mask_HW, tuning, media=spoken)


def _media_of(order: Order, editor: Editor[Any], picture: Picture | None) -> dict[str, Picture | Sound]:
    return media.opened(order.request, order.references, picture, order.limits) if editor.takes_references else {}


def _check_kinds(request: EditRequest, editor: Editor[Any]) -> None:
    """JSON's objects are no knobs, and its true and false no numbers; and every path is one that can be."""
    for info in knobs.describe(editor.Knobs):
        value = request.knobs.get(info.name)
        if isinstance(value, dict) or (isinstance(value, bool) and info.takes != "true or false"):
            shown = knobs.brief(value)
            raise KnobError(f"{editor.name}: {info.name} is {shown}, but takes {info.takes}: {info.description}")
    for name, path in (("picture", request.picture), ("mask", request.mask)):
        if path is not None and (not path.strip() or "\0" in path):
            raise RequestError(f"the {name} is {path!r}, which names no file; give its path, or leave it out")


def beside(out: Path, name: str) -> Path:
    """Where something that is shown beside the edit is saved: photo.edited.png, "mask 1" -> photo.edited.mask-1.png."""
    return out.with_name(f"{out.stem}.{name.replace(' ', '-')}.png")


def _check_room(order: Order, metadata: pictures.Metadata | None) -> None:
    if order.out is not None:
        asked = order.request.model_dump(mode="json")
        candidates = order.sentinel.candidates * CHARACTERS + len(order.request.instruction) if order.sentinel else 0
        # The record may repeat what knobs say, and the words that candidates are judged by.
        provenance = {"request": asked, "record": [" " * (RECORD_CHARACTERS + candidates), asked["knobs"]]}
        pictures.check_words(order.out, metadata, provenance, order.keep_location)


def _check_text(name: str, text: str) -> None:
    if len(text) > MOST_CHARACTERS:
        raise RequestError(f"the {name} is longer than {MOST_CHARACTERS} characters; say it more briefly")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(f"the {name} is no Unicode text; write it in UTF-8") from None


def of_source(request: EditRequest) -> EditRequest:
    """The request for the picture that is made from the source prompt before it is edited: `imagine` makes the same."""
    told = {info.name for info in knobs.describe(registry.get("imagine").Knobs)}
    told_alike = {name: value for name, value in request.knobs.items() if name in told}
    update = {"editor": "imagine", "instruction": request.source_prompt, "source_prompt": None, "knobs": told_alike}
    return request.model_copy(update=update)


def resolve(checked: Checked, bundle: Bundle) -> tuple[EditRequest, knobs.Knobs]:
    """The request with nothing left open, as it is written into the result, and its knobs.

    What was asked for goes before what the bundle recommends for the editor, and that before the editor's own defaults.
    """
    request, editor, picture, mask_HW = checked.order.request, checked.editor, checked.picture, checked.mask_HW
    tuning = checked.tuning
    recommended = bundle.defaults.get(editor.name, {})
    given = {**of_tuning.knobs_of(tuning, editor), **request.knobs}
    settings = editor.settled(knobs.read(editor.name, editor.Knobs, given, recommended), bundle)
    update = {
        "picture_sha256": picture.sha256 if picture is not None else None,
        "references": media.resolved(request, checked.media, picture),
        "mask_sha256": sha256(mask_HW.tobytes()).hexdigest() if mask_HW is not None else None,
        "knobs": settings.model_dump(mode="json"),
        # A hub's bundle by its commit, so that `redo` finds the same weights; a folder as the user calls it.
        "model": bundle.name if "@" in bundle.name and not Path(request.model).is_dir() else request.model,
        "model_fingerprint": bundle.fingerprint,
        "tuned": request.tuned if tuning is None else tuning.record.name,
        "tuned_sha256": None if tuning is None else tuning.record.sha256,
        "steps": request.steps if request.steps is not None else recommended.get("steps", editor.steps),
    }
    return request.model_copy(update=update), settings
