"""What an order has of a tuning: whose editor and model it takes unless told otherwise, and what goes with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paintover import picture as pictures
from paintover.conditions.alone import says
from paintover.editors import knobs, registry
from paintover.editors.editor import Editor
from paintover.editors.tuned import Tuned
from paintover.errors import KnobError, ModelError, RequestError
from paintover.models.hub import is_hub_name
from paintover.orders import traces
from paintover.tuning import store
from paintover.tuning.store import Tuning

if TYPE_CHECKING:
    from paintover.models.bundle import Bundle
    from paintover.picture.limits import Limits
    from paintover.picture.open import Picture
    from paintover.request import EditRequest

WITHOUT_ITS_OWN = "sdedit"  # edits what other software tuned, where no editor is named


def found(tuned: str | Path | Tuning | None) -> Tuning | None:
    """The tuning of that name, or of a folder. What has expired goes. Raises RequestError, ModelError."""
    if not isinstance(tuned, (str, Path)):
        return tuned
    try:
        tuning = store.find(tuned)
    finally:
        traces.sweep()
    if tuning.record.editor is not None:
        try:
            editor = registry.get(tuning.record.editor)
            knobs.read(editor.name, editor.Knobs, tuning.record.knobs)
        except (KnobError, RequestError) as error:
            raise ModelError(f"{tuning.said} is damaged, or another version's: {error}; discard it and tune again") from None
    return tuning


def asked(tuning: Tuning | None, editor: str | None, model: str | Path | None, usual: str) -> dict[str, Any]:
    """Editor, model and tuning of a request: where none is named, the tuning's own, or what is usual.

    Raises RequestError where the model must be named, since a kept folder does not say where one lies.
    """
    if tuning is None:
        return {"editor": editor or usual, "model": str(model or "builtin")}
    record = tuning.record
    own = record.editor or WITHOUT_ITS_OWN
    named = model is not None or record.model in (None, "builtin") or is_hub_name(str(record.model))
    if tuning.kept_apart and not named and not Path(str(record.model)).is_dir():
        raise RequestError(f"{tuning.said} was made for a model {record.model!r}; say where that lies (--model)")
    return {"editor": editor or own, "model": str(model or record.model or "builtin"), "tuned": record.name}


def words(tuning: Tuning | None, instruction: str | None) -> str:
    """What an edit is told: its own words, or the caption that was learnt with the picture."""
    learnt = None if tuning is None else tuning.record.caption
    return instruction if instruction is not None else learnt or ""


def in_folder(tuned: Any, folder: Path) -> Any:
    """A folder that is named from another one; a tuning's name is left as it is."""
    return str(folder / tuned) if isinstance(tuned, str) and ("/" in tuned or "\\" in tuned) else tuned


def is_own(tuning: Tuning | None, editor: Editor[Any]) -> bool:
    """Whether it is the tuning's own editor, which takes what was learnt as its preparation."""
    return tuning is not None and tuning.record.editor == editor.name


def check(tuning: Tuning, editor: Editor[Any], request: EditRequest) -> None:
    """Raises RequestError for an editor that the tuning is nothing to, KnobError for knobs that it has settled."""
    record = tuning.record
    if is_own(tuning, editor):
        settled = knobs.read(editor.name, editor.Knobs, record.knobs)
        given = knobs.read(editor.name, editor.Knobs, {**record.knobs, **request.knobs})
        for name in record.knobs:
            if getattr(settled, name) != getattr(given, name):
                raise KnobError(
                    f"{name} was settled by {tuning.said} ({name} {getattr(settled, name)!r}); leave it out, or tune again"
                )
        learnt = record.caption if isinstance(editor, Tuned) and editor.captioned else None
        if learnt is not None and request.instruction.strip() != learnt.strip():
            raise RequestError(f"{tuning.said} learnt the caption {learnt!r}; leave the words out, or tune again with these")
    elif isinstance(editor, Tuned):
        whose = f"{record.editor} made {tuning.said}" if record.editor else f"{tuning.said} was not made by {editor.name}"
        raise RequestError(f"{editor.name} tunes by itself, and {whose}; leave one of them out, or use another editor")
    elif "text-to-image" not in editor.needs:
        raise RequestError(f"{editor.name} makes nothing from captions, and {tuning.said} is for these; use another editor")


def knobs_of(tuning: Tuning | None, editor: Editor[Any]) -> dict[str, Any]:
    """The knobs that are settled."""
    return dict(tuning.record.knobs) if tuning is not None and is_own(tuning, editor) else {}


def picture_of(tuning: Tuning, limits: Limits) -> Picture:
    """The picture that was tuned on, or the first of them. Raises RequestError where it is not kept."""
    data = tuning.picture()
    if data is None:
        raise RequestError(f"{tuning.said} holds no picture; name the one to edit")
    source = tuning.record.pictures[0]
    return replace(pictures.open(data, limits), sha256=source.sha256, name=source.name)


def check_picture(tuning: Tuning, editor: Editor[Any], picture: Picture) -> None:
    """Raises RequestError for another picture than the one that the editor can edit now."""
    if not (is_own(tuning, editor) and isinstance(editor, Tuned) and editor.bound and tuning.record.pictures):
        return
    if picture.sha256 not in {source.sha256 for source in tuning.record.pictures}:
        name = tuning.record.pictures[0].name
        raise RequestError(
            f"{tuning.said} is of another picture ({name}), and {editor.name} edits that alone; leave the picture out, or tune "
            f"the model to {picture.name}"
        )


def check_model(tuning: Tuning, bundle: Bundle) -> None:
    """Raises ModelError for another model than the one that was tuned."""
    record = tuning.record
    if record.model_fingerprint is not None and record.model_fingerprint != bundle.fingerprint:
        raise ModelError(
            f"{tuning.said} is of the model {record.model} ({record.model_fingerprint[:12]}), and {bundle.name} is another one "
            f"now ({bundle.fingerprint[:12]}); leave --model out, or tune this one"
        )


def note(tuning: Tuning, editor: Editor[Any], words: str) -> list[str]:
    """What may surprise: a caption that does not say what was learnt."""
    word = tuning.record.word
    if not word or is_own(tuning, editor) or editor.told != "caption" or says(word, words):
        return []
    return [f"the caption does not say {word!r}, which is what {tuning.said} taught the model"]
