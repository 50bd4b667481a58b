"""Tables: CSV, TSV, JSON or JSONL whose rows name an input, a goal and an instruction, as EVR, GIER and MA5k are kept."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from paintover.datasets.columns import by_split, find, id_of, row_of
from paintover.datasets.sample import Row, RowError, chosen, inside, optional, reason

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl")
_Cells = dict[str, Any] | str  # a row's cells, or what is wrong with it


def tables(path: Path) -> list[Path]:
    """The table that `path` is, or those that lie in it."""
    return [path] if path.is_file() else sorted(file for file in path.glob("*") if file.suffix.lower() in SUFFIXES)


class Table:
    """The rows of a split: of the file that is called so, or whose `split` column says so; "train" where nothing does.

    columns: what the columns are called, where not as usual. pictures: the folder that the pictures are named from (None: the
    table's). A row with several instructions (a list of them) becomes as many. Ids are the `id` column's, else FILE-ROW.
    Raises RowError when a file cannot be read, lacks a column that is needed, says an id twice, or there is no such split.
    """

    def __init__(self, path: Path, split: str, columns: Mapping[str, str] | None = None, pictures: Path | None = None) -> None:
        self.rows: list[tuple[Path, int, _Cells, dict[str, str], int | None]] = []  # file, row, cells, columns, which words
        names: dict[str, None] = {}
        for name, file, n, cells, what in _numbered(path, columns or {}):
            names[name] = None
            if name == split:
                self.rows += [(file, n, cells, what, k) for k in _said(cells, what)]
        self.splits = tuple(names)
        self.split = chosen(split, self.splits, path)
        self.pictures = pictures
        self._check_ids()

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, i: int) -> Row:
        file, n, cells, what, k = self.rows[i]
        where = f"{file}, row {n}"
        if isinstance(cells, str):
            raise RowError(f"{where}: {cells}")
        folder = file.parent if self.pictures is None else self.pictures
        get = {name: cells.get(column) for name, column in what.items()}
        if k is not None:
            get["instruction"] = cells[what["instruction"]][k]
        return row_of(get, _id(file, n, cells, what, k), where, lambda cell, name, at: inside(folder, cell, name, at))

    def _check_ids(self) -> None:
        seen: dict[str, str] = {}
        for file, n, cells, what, k in self.rows:
            if isinstance(cells, dict):
                name, where = _id(file, n, cells, what, k), f"{file}, row {n}"
                if name in seen:
                    raise RowError(
                        f"{where}: its id {name!r} is that of {seen[name]} too; say which column is the id (id=NAME)"
                    )
                seen[name] = where


def splits(path: Path, columns: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """What the splits are called, in the order that they come in. Raises RowError as Table does."""
    return tuple(dict.fromkeys(name for name, *_ in _numbered(path, columns or {})))


def _numbered(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[str, Path, int, _Cells, dict[str, str]]]:
    """Each row's split, file, number from 1, cells, and what its file's columns are."""
    for name, files in by_split(tables(path)).items():
        for file in files:
            try:
                rows = list(read(file))
            except (OSError, ValueError, csv.Error, RecursionError) as error:
                raise RowError(
                    f"{file} is no readable table ({reason(error)}); give CSV, TSV, JSON or JSONL in UTF-8"
                ) from None
            names = dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row)
            if not names:
                raise RowError(f"{file} has no rows; expected columns for the source, the target and the instruction")
            what = find(names, columns, file)
            for n, row in enumerate(rows, start=1):
                own = optional(row.get(what["split"])) if isinstance(row, dict) and "split" in what else None
                yield own or name, file, n, row, what


def read(file: Path) -> Iterator[_Cells]:
    """The rows of a table as they stand there. Raises OSError, ValueError and csv.Error where it is none."""
    text = file.read_text(encoding="utf-8-sig")
    kind = file.suffix.lower()
    if kind == ".jsonl":
        for line in text.split("\n"):
            if line.strip():
                yield _line(line)
    elif kind == ".json":
        value = json.loads(text)
        if isinstance(value, dict):  # of rows by their ids
            value = [{"id": key, **row} if isinstance(row, dict) else row for key, row in value.items()]
        if not isinstance(value, list):
            raise ValueError("neither a list of rows nor an object of them")
        yield from (row if isinstance(row, dict) else "no JSON object" for row in value)
    else:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if kind == ".tsv" else ",")
        for cells in reader:
            ragged = None in cells or None in cells.values()
            yield f"{len(reader.fieldnames or ())} cells were expected" if ragged else cells


def _line(text: str) -> _Cells:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"not JSON ({reason(error)})"
    return value if isinstance(value, dict) else "no JSON object"


def _said(cells: _Cells, what: Mapping[str, str]) -> list[int | None]:
    """One number for each of a row's instructions; None for the only one."""
    said = cells.get(what["instruction"]) if isinstance(cells, dict) else None
    return list(range(len(said))) if isinstance(said, list) and said else [None]


def _id(file: Path, n: int, cells: dict[str, Any], what: Mapping[str, str], k: int | None) -> str:
    name = id_of({name: cells.get(column) for name, column in what.items()}, file, n)
    return name if k is None else f"{name}-{k + 1}"
