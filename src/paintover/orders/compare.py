"""Compare: the same words to several editors, side by side in one labelled picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from paintover import picture as pictures
from paintover.editors import registry
from paintover.editors.knobs import brief
from paintover.errors import PaintoverError, RequestError
from paintover.orders import media
from paintover.orders.order import Order, path_of, request_for
from paintover.orders.run import edit_many
from paintover.picture import grid
from paintover.picture.limits import Limits
from paintover.request import EditRequest, EditResult

if TYPE_CHECKING:
    from paintover.engine.cache import PrepareCache

SIDE = 512  # of a picture in the sheet, at most
LEAST, MOST = 32, 2048  # that may be asked for
_LEAST = 256  # pictures that are smaller are enlarged to it
USUAL = ("instruct", "lgie", "mgie")


@dataclass(frozen=True, slots=True)
class Compared:
    """One editor's answer: rgb_HWC as small as in the sheet, and what it derived from the words, if it derived anything.

    reason: why there is none; then it has nothing else.
    """

    editor: str
    rgb_HWC: NDArray[np.uint8] | None = None
    text: str = ""
    request: EditRequest | None = None
    record: dict[str, Any] | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The sheet as a picture, rgb_HWC uint8, and what is on it, from left to right."""

    rgb_HWC: NDArray[np.uint8]
    columns: list[Compared]
    path: Path | None = None


def compare(
    picture: Any,
    instruction: str,
    *,
    editors: Sequence[str] | None = None,
    references: Mapping[str, Any] | None = None,
    model: str | Path | None = None,
    source_prompt: str | None = None,
    seed: int = 0,
    steps: int | None = None,
    out: str | Path | None = None,
    force: bool = False,
    limits: Limits = Limits(),
    side: int = SIDE,
    device: str | None = None,
    cache: PrepareCache | None = None,
    on_edit: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Edits a picture by each editor, told the same words, in shared denoiser calls, and lays the results side by side.

    Beneath each stands what the editor derived from the words (`mgie`: the instruction in full). source_prompt: what the
    picture shows; told to the editors that take it. side: the longer side of each picture in the sheet, at most. on_edit:
    called with how many of how many edits are done. The rest is as for `edit`, and every editor runs as the model recommends.
    editors: if not given instruct, lgie and mgie; with references, which other editors do not take, those that do.

    An editor that cannot (the model lacks what it needs) leaves its place empty, and says why. Raises PaintoverError for an
    unknown editor, and where none can.
    """
    if editors is None:
        editors = media.takers() if references else USUAL
    if isinstance(editors, str) or not all(isinstance(name, str) for name in editors):
        raise RequestError(f"editors is {brief(editors)}; expected a list of names, such as {list(USUAL)}")
    if not LEAST <= side <= MOST:
        raise RequestError(f"side is {side}; expected {LEAST} to {MOST} pixels")
    names = list(dict.fromkeys(editors))
    if not names:
        raise RequestError(f"say which editors to compare, for example {','.join(USUAL)}")
    takers = [name for name in names if registry.get(name).takes_source_prompt]
    if source_prompt is not None and not takers:
        raise RequestError(f"none of {', '.join(names)} takes a source prompt; leave it out")
    if out is not None:
        pictures.check_target(out, force)
    opened = pictures.open(picture, limits)  # once, not for each edit
    spoken, memory = media.told(references), media.once(references, limits)
    side = min(side, max(*opened.size_HW, _LEAST))
    orders = []
    for name in names:
        request = request_for(
            picture=path_of(picture),
            instruction=instruction,
            source_prompt=source_prompt if name in takers else None,
            references=spoken,
            editor=name,
            model=str(model or "builtin"),
            seed=seed,
            steps=steps,
        )
        orders.append(Order(request, opened, limits=limits, references=memory))
    native_HWC = opened.rgb_HWC if opened.native_rgb_HWC is None else opened.native_rgb_HWC
    source = ("the picture", grid.small(native_HWC, opened.alpha_HW, side), "")

    def drawn(columns: Sequence[Compared]) -> NDArray[np.uint8]:
        failed = {column.editor: f"failed: {column.reason}" for column in columns if column.reason is not None}
        return grid.row(instruction, [source, *((c.editor, c.rgb_HWC, failed.get(c.editor, c.text)) for c in columns)])

    if out is not None:
        pictures.check_target(out, force, size_HW=drawn([Compared(name) for name in names]).shape[:2])
    columns = []
    for name, outcome in zip(names, edit_many(orders, together=len(orders), cache=cache, device=device), strict=True):
        columns.append(_column(name, outcome, side))
        if on_edit is not None:
            on_edit(len(columns), len(names))
    requests = [column.request for column in columns if column.request is not None]
    if not requests:
        raise RequestError(f"none of the editors can: {columns[0].editor}: {columns[0].reason}")
    found = Comparison(drawn(columns), columns)
    if out is None:
        return found
    # A sweep over the editor: `show` and `redo` know what that is.
    provenance = {"sweep": {"x": {"editor": names}, "first": requests[0].model_dump(mode="json")}}
    metadata = pictures.Metadata(icc=opened.metadata.icc)  # the pixels' colours
    return replace(found, path=pictures.save(out, found.rgb_HWC, metadata, provenance, force=force))


def _column(name: str, outcome: EditResult | Exception, side: int) -> Compared:
    """What came of an editor's edit. Raises what is a fault of ours."""
    if isinstance(outcome, EditResult):
        shrunk = grid.small(outcome.rgb_HWC, outcome.alpha_HW, side)
        text = str(outcome.record.get("expressive") or "")
        return Compared(name, shrunk, text, outcome.request, outcome.record)
    if isinstance(outcome, PaintoverError):
        return Compared(name, reason=str(outcome))
    raise outcome
