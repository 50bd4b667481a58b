"""Editors that trade the picture for the words, and the dial that each does it with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from paintover.errors import RequestError


@dataclass(frozen=True)
class Swept:
    """An editor, the knob that leads from the picture to the words, and the values it is measured at, in that order."""

    editor: str
    knob: str
    values: tuple[float, ...]


# From the picture to the words: nearly nothing happens at the first value, nearly nothing of the picture is left at the last.
DIALS = (
    Swept("unitune", "fidelity", (1.0, 0.75, 0.5, 0.25, 0.0)),
    Swept("sdedit", "strength", (0.3, 0.4, 0.5, 0.6, 0.8)),
    Swept("imagic", "alpha", (0.2, 0.6, 1.0, 1.4, 1.8)),
    Swept("dreambooth", "strength", (0.3, 0.4, 0.5, 0.6, 0.8)),
    Swept("textual-inversion", "strength", (0.3, 0.4, 0.5, 0.6, 0.8)),
)


def dials(names: Sequence[str] | None = None, values: int | None = None) -> list[Swept]:
    """Those of the editors called so; all that there are if None. `values`: as many as that of each, evenly, both ends kept.

    Raises RequestError for a name that has no dial, or a count that no dial has.
    """
    there = {dial.editor: dial for dial in DIALS}
    for name in names or ():
        if name not in there:
            raise RequestError(f"there is no dial of {name!r}; choose of {', '.join(there)}")
    chosen = [there[name] for name in dict.fromkeys(names or there)]
    return chosen if values is None else [replace(dial, values=_some(dial.values, values)) for dial in chosen]


def _some(values: tuple[float, ...], count: int) -> tuple[float, ...]:
    if not 2 <= count <= len(values):
        raise RequestError(f"--values is {count}; expected 2 to {len(values)}")
    return tuple(values[round(i * (len(values) - 1) / (count - 1))] for i in range(count))
