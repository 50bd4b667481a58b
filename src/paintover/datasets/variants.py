"""Pictures with a region painted anew, made once by `paintover train variants`: files, and where the region is.

variants.jsonl: first what made them, then {"picture", "number", "variant", "box", "size"} each. picture: its path in the folder
of pictures; variant: the made file's, from variants.jsonl's folder; box: left, top, right and bottom in pixels, the last two
not inside; size: width and height.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paintover.datasets.lines import read
from paintover.datasets.sample import RowError, inside, reason
from paintover.datasets.table import read as read_table

FILE = "variants.jsonl"
Box = tuple[int, int, int, int]  # left, top, right, bottom
_PICTURE = ("picture", "file", "file_name", "image", "path")
_SIDES = (("left", "top", "right", "bottom"), ("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"))


@dataclass(frozen=True, slots=True)
class Variant:
    """One made picture. `source` differs from it inside `box` alone; both are `size_HW`."""

    file: Path
    box: Box
    size_HW: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Repainted:
    """A picture, and its variants in the order of their numbers. name: its path in the folder of pictures."""

    name: str
    source: Path
    variants: tuple[Variant, ...]


class Variants:
    """The pictures that have variants, in the order in which those were made: `variants[i]` is a Repainted.

    folder: what `train variants` made. pictures: the folder that it was made of. Files are not opened. Raises RowError where
    variants.jsonl cannot be read, or a line is none of it.
    """

    def __init__(self, folder: str | Path, pictures: str | Path) -> None:
        self.file = Path(folder) / FILE
        self.pictures = Path(pictures)
        if not self.file.is_file():
            raise RowError(f"{self.file}: no such file; make it with `paintover train variants`")
        made: dict[str, dict[int, Variant]] = {}
        for n, line in enumerate(read(self.file)[1], start=2):
            name, number, variant = self._variant(line, f"{self.file}, row {n}")
            made.setdefault(name, {})[number] = variant
        self.rows = [(name, tuple(of[number] for number in sorted(of))) for name, of in made.items()]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Repainted:
        name, variants = self.rows[i]
        return Repainted(name, inside(self.pictures, name, "picture", str(self.file)), variants)

    def _variant(self, line: dict[str, Any], where: str) -> tuple[str, int, Variant]:
        try:
            name, number = str(line["picture"]), int(line["number"])
            (left, top, right, bottom), (width, height) = map(int, line["box"]), map(int, line["size"])
            if not (0 <= left < right <= width and 0 <= top < bottom <= height):
                raise ValueError("its box is not inside the picture")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise RowError(f"{where}: no variant of a picture ({reason(error)})") from None
        file = inside(self.file.parent, line.get("variant"), "variant", where)
        return name, number, Variant(file, (left, top, right, bottom), (height, width))


def boxes(table: Path) -> dict[str, list[tuple[float, ...]]]:
    """What a detector found, by picture: left, top, right, bottom, in pixels or, where none is above 1, in frames.

    table: CSV, TSV, JSON or JSONL with a column for the picture and either `box`, a list, or one for each side. Several rows
    may be of one picture. Raises RowError for a table that cannot be read or says something else.
    """
    try:
        rows = list(read_table(table))
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise RowError(f"{table} is no readable table ({reason(error)}); give CSV, TSV, JSON or JSONL in UTF-8") from None
    found: dict[str, list[tuple[float, ...]]] = {}
    for n, row in enumerate(rows, start=1):
        where = f"{table}, row {n}"
        if isinstance(row, str):
            raise RowError(f"{where}: {row}")
        name = next((row[column] for column in _PICTURE if row.get(column)), None)
        if not isinstance(name, str):
            raise RowError(f"{where}: it names no picture; expected a column {', '.join(_PICTURE)}")
        found.setdefault(Path(name.replace("\\", "/")).as_posix(), []).append(_box(row, where))
    return found


def _box(row: dict[str, Any], where: str) -> tuple[float, ...]:
    value = row.get("box")
    sides = next((columns for columns in _SIDES if all(row.get(column) not in (None, "") for column in columns)), None)
    if value in (None, "") and sides is not None:
        value = [row[column] for column in sides]
    try:
        value = json.loads(value) if isinstance(value, str) else value
        left, top, right, bottom = map(float, value)  # type: ignore[arg-type]
        if not (0 <= left < right and 0 <= top < bottom < float("inf") and right < float("inf")):
            raise ValueError
    except (TypeError, ValueError):
        raise RowError(
            f"{where}: it says no box; expected left, top, right, bottom, as a list in `box` or in columns of these names"
        ) from None
    return left, top, right, bottom
