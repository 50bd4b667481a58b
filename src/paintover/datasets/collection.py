"""Pictures and sounds that somebody has, each with a caption: what instructions are made of.

A folder holds them beside a text each (moo.ogg, moo.txt), or with a table; a table may stand alone. Its columns: `file` (also
file_name, image, picture, audio, sound, path), `caption` (also text, description), and if there is one `things`: what is to be
seen or heard in it, as names divided by semicolons (also objects, thing, name).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from paintover.datasets.sample import RowError, inside, reason, words
from paintover.datasets.table import SUFFIXES, read

Kind = Literal["image", "audio"]
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif", ".jp2")
SOUNDS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".m4a")
_FILE = ("file", "file_name", "image", "picture", "audio", "sound", "path")
_CAPTION = ("caption", "text", "description")
_THINGS = ("things", "objects", "thing", "name")


@dataclass(frozen=True, slots=True)
class Medium:
    """A picture or a sound, its caption, and what is known to be in it; () where nothing is."""

    file: Path
    kind: Kind
    caption: str
    things: tuple[str, ...] = ()


def collection(paths: Sequence[Path]) -> list[Medium]:
    """All of them, in order, each file once. Raises RowError where a path is none, a file has no caption, or is not there."""
    found: dict[Path, Medium] = {}
    for path in paths:
        if path.is_dir():
            tables = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
            media = [m for table in tables for m in _of_table(table)] if tables else list(_of_folder(path))
        elif path.is_file():
            media = list(_of_table(path))
        else:
            raise RowError(
                f"{path}: no such file or folder; name a folder of captioned pictures and sounds, or a table of them"
            )
        if not media:
            raise RowError(f"{path} holds neither pictures nor sounds ({', '.join((*PICTURES, *SOUNDS))})")
        for medium in media:
            found.setdefault(medium.file.resolve(), medium)
    return list(found.values())


def kind_of(name: str) -> Kind | None:
    """What a file is by its suffix; None for neither."""
    suffix = Path(name).suffix.lower()
    return "image" if suffix in PICTURES else "audio" if suffix in SOUNDS else None


def _of_folder(folder: Path) -> Iterator[Medium]:
    for file in sorted(folder.rglob("*")):
        kind = kind_of(file.name)
        if kind is None or not file.is_file() or any(part.startswith(".") for part in file.relative_to(folder).parts):
            continue
        beside = file.with_suffix(".txt")
        try:
            text = beside.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise RowError(f"{file} has no caption; write it into {beside.name} beside it, or give a table") from None
        except (OSError, UnicodeDecodeError) as error:
            raise RowError(f"{beside} cannot be read as UTF-8 ({reason(error)})") from None
        yield Medium(file, kind, _caption(text, str(beside)))


def _of_table(table: Path) -> Iterator[Medium]:
    if table.suffix.lower() not in SUFFIXES:
        raise RowError(f"{table} is no table; give CSV, TSV, JSON or JSONL, or a folder")
    try:
        rows = list(read(table))
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise RowError(f"{table} is no readable table ({reason(error)}); give CSV, TSV, JSON or JSONL in UTF-8") from None
    for n, row in enumerate(rows, start=1):
        where = f"{table}, row {n}"
        if isinstance(row, str):
            raise RowError(f"{where}: {row}")
        file = inside(table.parent, _cell(row, _FILE), "file", where)
        kind = kind_of(file.name)
        if kind is None:
            raise RowError(f"{where}: {file.name} is neither a picture nor a sound ({', '.join((*PICTURES, *SOUNDS))})")
        if not file.is_file():
            raise RowError(f"{where}: {file}: no such file")
        yield Medium(file, kind, _caption(_cell(row, _CAPTION), where), _things(_cell(row, _THINGS)))


def _cell(row: dict[str, Any], names: Sequence[str]) -> Any:
    alike = {str(column).strip().lower(): value for column, value in row.items()}
    return next((alike[name] for name in names if alike.get(name) not in (None, "")), None)


def _caption(value: Any, where: str) -> str:
    """Brackets mean references; a caption has none."""
    return words(value, "caption", where).translate({ord("["): "(", ord("]"): ")", ord("<"): None, ord(">"): None})


def _things(value: Any) -> tuple[str, ...]:
    parts = value if isinstance(value, list) else str(value or "").split(";")
    return tuple(name for part in parts if (name := " ".join(re.sub(r"[\[\]<>:.]", " ", str(part)).split())))
