"""The axes of a sweep: what is varied, and its values, read and checked one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from paintover.editors import knobs as knobs_of
from paintover.editors.editor import Editor
from paintover.errors import KnobError, RequestError
from paintover.orders.order import request_for
from paintover.request import EditRequest

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


def axes(
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
    if not name:
        raise RequestError(f"an axis is {asked!r}; write what varies, and its values: steps=10,20; {_varies(editor)}")
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


def varied(request: EditRequest, *settings: tuple[Axis | None, Any]) -> EditRequest:
    """The request with each axis at its value."""
    knobs: dict[str, Any] = dict(request.knobs)
    of_request: dict[str, Any] = {}
    for axis, value in settings:
        if axis is not None:
            (of_request if axis.name in OF_REQUEST else knobs)[axis.name] = value
    return request.model_copy(update={**of_request, "knobs": knobs})
