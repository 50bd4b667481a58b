"""The columns of MGIE's comparison: what edits, on which model, told what."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from paintover.errors import RequestError

NOTHING = "doing nothing"
ORACLE = "oracle"
TELLERS = ("mgie", "lgie")  # whose language models say what is meant
_NAME = re.compile(r"[\w(\[]([\w .,+()\[\]-]*[\w)\]])?")  # it becomes a folder's


@dataclass(frozen=True)
class Column:
    """An editor with some knobs, on a model (None: the one that is evaluated). meant: it is told what is meant."""

    name: str
    editor: str
    knobs: dict[str, Any] = field(default_factory=dict)
    meant: bool = False
    model: str | None = None


COLUMNS = (
    Column("instruct", "instruct"),
    Column("lgie", "lgie"),
    Column("mgie", "mgie"),
    Column("mgie by its words (FZ)", "mgie", {"guided_by": "text"}),
    Column("lgie by its words", "lgie", {"guided_by": "text"}),
    Column(ORACLE, "instruct", meant=True),
)


def columns(names: Sequence[str] | None) -> list[Column]:
    """The columns called so; None: all. Raises RequestError for a name that is none."""
    there = {column.name: column for column in COLUMNS}
    for name in names or ():
        if name not in there:
            raise RequestError(f"there is no column {name!r}; choose of {', '.join(there)}")
    return [there[name] for name in dict.fromkeys(names or there)]


def ablations(said: Sequence[str]) -> list[Column]:
    """Of each NAME=BUNDLE a column: the bundle, edited by mgie. Raises RequestError for what is none, and for a name that
    another column has or that no folder can have."""
    found: dict[str, Column] = {}
    taken = {column.name.casefold() for column in COLUMNS} | {NOTHING}
    for text in said:
        name, _, bundle = (part.strip() for part in text.partition("="))
        if not name or not bundle:
            raise RequestError(f"an ablation is {text!r}; write NAME=BUNDLE")
        if not _NAME.fullmatch(name):
            raise RequestError(
                f"an ablation is called {name!r}; use letters, digits, spaces and . , + - ( ) [ ], such as 4 [IMG]"
            )
        if name.casefold() in taken:
            raise RequestError(f"an ablation is called {name}, as a column is; call it something else")
        if found.setdefault(name.casefold(), column := Column(name, "mgie", model=bundle)) != column:
            raise RequestError(f"there are two ablations {name!r}; give each its own name")
    return list(found.values())
