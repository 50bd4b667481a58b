"""How a dataset of edits is named on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paintover.errors import RequestError

Kind = Annotated[
    str | None, typer.Option(help="instruct-pix2pix, magicbrush, mgie, parquet, table (default: what its files look like).")
]
Columns = Annotated[
    list[str] | None, typer.Option("--column", metavar="WHAT=NAME", help="What a table calls a column: source=file_0, ...")
]
Pictures = Annotated[Path | None, typer.Option(help="The folder that a table names its pictures from (default: its own).")]
SkipBroken = Annotated[bool, typer.Option("--skip-broken", help="Leave out rows that cannot be read.")]


def columns_of(given: list[str] | None) -> dict[str, str]:
    columns = {}
    for text in given or ():
        what, equals, name = text.partition("=")
        if not equals or not name:
            raise RequestError(f"--column is {text!r}; expected WHAT=NAME, such as source=file_0")
        columns[what] = name
    return columns
