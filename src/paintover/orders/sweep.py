"""Sweep: one edit for each value of one or two settings, in one labelled picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from paintover import picture as pictures
from paintover.editors import knobs as knobs_of
from paintover.editors import registry
from paintover.editors.editor import Editor
from paintover.errors import KnobError, RequestError
from paintover.orders.order import Order, request_for
from paintover.orders.run import BESIDE, edit_many
from paintover.picture import grid
from paintover.picture.limits import Limits
from paintover.request import EditRequest, EditResult

if TYPE_CHECKING:
    from paintover.engine.cache import PrepareCache

OF_REQUEST = ("steps", "seed")  # settings that are no knobs, and can be varied too
MOST = 400  # edits


@dataclass(frozen=True, slots=True)
class Axis:
    """What is varied, and its values in order."""

    name: str
    values: tuple[Any, ...]

    @property
    def labels(self) -> list[str]:
        return [f"{self.name} = {value}" for value in self.values]


@dataclass(frozen=True, slots=True)
class Cell:
    """One edit: x and y are its values (None where there is no such axis), rgb_HWC what it made, as small as in the grid.

    reason: why it cannot be; then it has nothing else.
    """

    x: Any
    y: Any
    rgb_HWC: NDArray[np.uint8] | None = None
    request: EditRequest | None = None
    record: dict[str, Any] | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Sweep:
    """The grid as a picture, rgb_HWC uint8, and its cells, row by row: cells[j][i] has the j-th y and the i-th x."""

    rgb_HWC: NDArray[np.uint8]
    x: Axis | None
    y: Axis | None
    cells: list[list[Cell]]
    path: Path | None = None


def sweep(
    picture: Any,
    instruction: str,
    *,
    x: str | tuple[str, Sequence[Any]] | None = None,
    y: str | tuple[str, Sequence[Any]] | None = None,
    made: str | None = None,
    editor: str = BESIDE,
    model: str | Path = "builtin",
    mask: Any = None,
    source_prompt: str | None = None,
    seed: int | None = None,
    steps: int | None = None,
    preserve: bool = True,
    out: str | Path | None = None,
    force: bool = False,
    limits: Limits = Limits(),
    side: int = 256,
    together: int = 8,
    device: str | None = None,
    cache: PrepareCache | None = None,
    on_step: Callable[[Any], None] | None = None,
    **knobs: Any,
) -> Sweep:
    """Edits a picture once for each value of x and of y, and lays the results out as a grid, the picture itself first.

    x, y: a knob of the editor, or steps or seed, with its values: "t_max=50,47,44" (";" between values that hold commas) or
    ("t_max", [50, 47, 44]). The MDP editors need not be told: they vary t_max and t_m. made: instead of a picture (None), the
    caption of one that is made first. side: the longer side of each picture in the grid. together: how many edits share
    denoiser calls; what they prepare alike (the inversion) is prepared once. The rest is as for `edit`.

    Values that do not go together (a window longer than what is left) leave their cell empty, and say why. Raises
    PaintoverError where a value is impossible by itself, or no cell can be.
    """
    system = registry.get(editor)
    given = {*knobs, *(name for name, value in (("seed", seed), ("steps", steps)) if value is not None)}
    across, down = _axes(system, given, x, y)
    if made is not None:
        if picture is not None or source_prompt is not None:
            raise RequestError("a sweep is of a picture, or of one that is made (--made): name one of them")
        source_prompt = made
    elif picture is None:
        raise RequestError("name a picture, or say which one to make first (--made)")
    in_place = isinstance(picture, (str, Path))
    request = request_for(
        picture=str(picture) if in_place else None,
        mask=str(mask) if isinstance(mask, (str, Path)) else None,
        instruction=instruction,
        source_prompt=source_prompt,
        editor=editor,
        knobs=knobs,
        model=str(model),
        seed=seed or 0,
        steps=steps,
        preserve=preserve,
    )
    if out is not None:
        pictures.check_target(out, force)
    order = Order(request, None if in_place else picture, mask if request.mask is None else None, limits=limits)
    cells = [Cell(i, j) for j in (down.values if down else (None,)) for i in (across.values if across else (None,))]
    orders = [replace(order, request=_varied(request, (across, cell.x), (down, cell.y)), on_step=on_step) for cell in cells]
    source: NDArray[np.uint8] | None = None
    for n, outcome in enumerate(edit_many(orders, together=together, cache=cache, device=device)):
        if isinstance(outcome, EditResult):
            shrunk = grid.small(outcome.rgb_HWC, outcome.alpha_HW, side)
            cells[n] = replace(cells[n], rgb_HWC=shrunk, request=outcome.request, record=outcome.record)
            if made is not None and source is None:
                source = grid.small(outcome.shown["source"], None, side)
        elif isinstance(outcome, KnobError):
            cells[n] = replace(cells[n], reason=str(outcome))
        else:
            raise outcome
    requests = [cell.request for cell in cells if cell.request is not None]
    if not requests:
        raise KnobError(f"no edit of the grid can be: {cells[0].reason}")
    metadata = None
    if source is None:
        opened = pictures.open(picture, limits)
        native = opened.rgb_HWC if opened.native_rgb_HWC is None else opened.native_rgb_HWC
        source = grid.small(native, opened.alpha_HW, side)
        metadata = pictures.Metadata(icc=opened.metadata.icc)  # the pixels' colours, and that a picture was edited
    width = len(across.values) if across else 1
    rows = [cells[n : n + width] for n in range(0, len(cells), width)]
    rgb_HWC = grid.draw(
        f"{editor}: {instruction}",
        (source, made or "the picture"),
        across.labels if across else [],
        down.labels if down else [],
        [[cell.rgb_HWC if cell.rgb_HWC is not None else str(cell.reason) for cell in row] for row in rows],
    )
    found = Sweep(rgb_HWC, across, down, rows)
    if out is None:
        return found
    axes = {name: {axis.name: list(axis.values)} for name, axis in (("x", across), ("y", down)) if axis}
    provenance = {"sweep": {**axes, "first": requests[0].model_dump(mode="json")}}
    return replace(found, path=pictures.save(out, rgb_HWC, metadata, provenance, force=force))


def _axes(
    editor: Editor[Any], given: set[str], *asked: str | tuple[str, Sequence[Any]] | None
) -> tuple[Axis | None, Axis | None]:
    """Both axes, read and checked value by value; `given` are settled already. Raises RequestError, KnobError."""
    if all(axis is None for axis in asked):
        asked = tuple(axis if axis[0] not in given else None for axis in editor.swept.items())
        if all(axis is None for axis in asked):
            raise RequestError(f"say what to vary, for example --x steps=10,20; {_varies(editor)}")
    x, y = (None if axis is None else _axis(editor, axis) for axis in asked)
    if x and y and x.name == y.name:
        raise RequestError(f"{x.name} is on both axes; vary two different things, or one")
    for axis in (x, y):
        if axis and axis.name in given:
            raise RequestError(f"{axis.name} is to be varied, and is given as well; leave one of them out")
    count = (len(x.values) if x else 1) * (len(y.values) if y else 1)
    if count > MOST:
        raise RequestError(f"the grid has {count} edits; it takes at most {MOST}")
    return x, y


def _axis(editor: Editor[Any], asked: str | tuple[str, Sequence[Any]]) -> Axis:
    if isinstance(asked, str):
        name, _, text = asked.partition("=")
        name = name.strip().replace("-", "_")
        values: list[Any] = [value.strip() for value in text.split(";" if ";" in text else ",")]
    else:
        name, values = asked[0], list(asked[1])
    if not values or "" in values:
        raise RequestError(f"{name} has no values; write {name}=value,value")
    if name in OF_REQUEST:
        read = [getattr(request_for(instruction="x", **{name: value}), name) for value in values]
    elif name in editor.Knobs.model_fields:
        read = [getattr(knobs_of.read(editor.name, editor.Knobs, {name: value}), name) for value in values]
    else:
        raise KnobError(f"{editor.name} has no {name!r} to vary; {_varies(editor)}")
    if len(set(map(str, read))) < len(read):
        raise RequestError(f"{name} has the same value twice; give each once")
    return Axis(name, tuple(read))


def _varies(editor: Editor[Any]) -> str:
    return f"{editor.name} can vary {', '.join([*editor.Knobs.model_fields, *OF_REQUEST])}"


def _varied(request: EditRequest, *settings: tuple[Axis | None, Any]) -> EditRequest:
    knobs: dict[str, Any] = dict(request.knobs)
    of_request: dict[str, Any] = {}
    for axis, value in settings:
        if axis is not None:
            (of_request if axis.name in OF_REQUEST else knobs)[axis.name] = value
    return request.model_copy(update={**of_request, "knobs": knobs})
