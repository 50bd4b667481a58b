"""Sweep: one edit for each value of one or two settings, in one labelled picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from paintover import picture as pictures
from paintover.editors import registry
from paintover.errors import KnobError, NotFiniteError, RequestError
from paintover.orders import media
from paintover.orders import tuned as of_tuning
from paintover.orders.axes import Axis, axes, varied
from paintover.orders.order import Order, path_of, pixels_of, request_for
from paintover.orders.run import BESIDE, edit_many
from paintover.picture import grid
from paintover.picture.limits import Limits
from paintover.request import EditRequest, EditResult

if TYPE_CHECKING:
    from paintover.engine.cache import PrepareCache


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
    limits: Limits = Limits(),
    side: int = 256,
    together: int = 8,
    device: str | None = None,
    cache: PrepareCache | None = None,
    on_edit: Callable[[int, int], None] | None = None,
    **knobs: Any,
) -> Sweep:
    """Edits a picture once for each value of x and of y, and lays the results out as a grid, the picture itself first.

    x, y: a knob of the editor, or steps or seed, with its values: "t_max=50,47,44" (";" between values that hold commas) or
    ("t_max", [50, 47, 44]). The MDP editors need not be told: they vary t_max and t_m. made: instead of a picture (None), the
    caption of one that is made first. side: the longer side of each picture in the grid. together: how many edits share
    denoiser calls; what they prepare alike (the inversion) is prepared once. on_edit: called with how many of how many edits
    are done. The rest is as for `edit`.

    Values that do not go together (a window longer than what is left) or overflow leave their cell empty, and say why. Raises
    PaintoverError where a value is impossible by itself, or no cell can be.
    """
    tuning = of_tuning.found(tuned)
    whose = of_tuning.asked(tuning, editor or (media.USUAL if references else None), model, BESIDE)
    editor = whose["editor"]
    system = registry.get(editor)
    given = {*knobs, *(name for name, value in (("seed", seed), ("steps", steps)) if value is not None)}
    across, down = axes(system, given, x, y)
    if made is not None:
        if picture is not None or source_prompt is not None:
            raise RequestError("a sweep is of a picture, or of one that is made (--made): name one of them")
        if not made.strip():
            raise RequestError("the caption of the picture that is made first (--made) is empty; say what it shows")
        source_prompt = made
    elif picture is None and tuning is None:
        raise RequestError("name a picture, or say which one to make first (--made)")
    request = request_for(
        picture=path_of(picture),
        mask=path_of(mask),
        instruction=instruction,
        source_prompt=source_prompt,
        references=media.told(references),
        **whose,
        knobs=knobs,
        seed=seed or 0,
        steps=steps,
        preserve=preserve,
    )
    if out is not None:
        pictures.check_target(out, force)
    opened = None  # once, not for each edit
    if picture is not None:
        opened = pictures.open(picture, limits)
    elif tuning is not None and made is None:
        opened = of_tuning.picture_of(tuning, limits)
    order = Order(request, opened, pixels_of(mask), limits=limits, tuning=tuning, references=media.once(references, limits))
    cells = [Cell(i, j) for j in (down.values if down else (None,)) for i in (across.values if across else (None,))]
    orders = [replace(order, request=varied(request, (across, cell.x), (down, cell.y))) for cell in cells]
    width = len(across.values) if across else 1

    def drawn(source: tuple[NDArray[np.uint8], str], shown: Sequence[NDArray[np.uint8] | str]) -> NDArray[np.uint8]:
        rows = [shown[n : n + width] for n in range(0, len(cells), width)]
        columns, beside = (axis.labels if axis else [] for axis in (across, down))
        return grid.draw(f"{editor}: {instruction}", source, columns, beside, rows)

    if out is not None:  # what is made from words is square
        first = _of_picture(opened, side) if opened is not None else (np.zeros((side, side, 3), np.uint8), made or "")
        pictures.check_target(out, force, size_HW=drawn(first, [""] * len(cells)).shape[:2])
    sources: list[NDArray[np.uint8]] = []
    for n, outcome in enumerate(edit_many(orders, together=together, cache=cache, device=device)):
        cells[n] = _filled(cells[n], outcome, side)
        if isinstance(outcome, EditResult) and made is not None:
            sources.append(grid.small(outcome.shown["source"], None, side))
        if on_edit is not None:
            on_edit(n + 1, len(cells))
    requests = [cell.request for cell in cells if cell.request is not None]
    if not requests:
        raise KnobError(f"no edit of the grid can be: {cells[0].reason}")
    rgb_HWC = drawn(
        _of_picture(opened, side) if opened is not None else _of_made(made or "", sources),
        [cell.rgb_HWC if cell.rgb_HWC is not None else str(cell.reason) for cell in cells],
    )
    found = Sweep(rgb_HWC, across, down, [cells[n : n + width] for n in range(0, len(cells), width)])
    if out is None:
        return found
    varying = {name: {axis.name: list(axis.values)} for name, axis in (("x", across), ("y", down)) if axis}
    provenance = {"sweep": {**varying, "first": requests[0].model_dump(mode="json")}}
    # The pixels' colours, and that a picture was edited.
    metadata = None if opened is None else pictures.Metadata(icc=opened.metadata.icc)
    return replace(found, path=pictures.save(out, rgb_HWC, metadata, provenance, force=force))


def _filled(cell: Cell, outcome: EditResult | Exception, side: int) -> Cell:
    """The cell with what came of its edit. Raises what is wrong with all of them."""
    if isinstance(outcome, EditResult):
        shrunk = grid.small(outcome.rgb_HWC, outcome.alpha_HW, side)
        return replace(cell, rgb_HWC=shrunk, request=outcome.request, record=outcome.record)
    if isinstance(outcome, (KnobError, NotFiniteError)):
        return replace(cell, reason=str(outcome))
    raise outcome


def _of_picture(opened: pictures.Picture, side: int) -> tuple[NDArray[np.uint8], str]:
    """The picture, small, and what is written under it."""
    native_HWC = opened.rgb_HWC if opened.native_rgb_HWC is None else opened.native_rgb_HWC
    return grid.small(native_HWC, opened.alpha_HW, side), "the picture"


def _of_made(made: str, sources: list[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], str]:
    """The picture that was made first, likewise. Where its seed, steps or guidance vary there are several."""
    alike = all(np.array_equal(source, sources[0]) for source in sources)
    return sources[0], made if alike else f"the first edit's (others differ): {made}"
