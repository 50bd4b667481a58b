"""Files of expressive instructions: what each instruction of a dataset means for its picture, joined to it by id.

JSON lines: first an object that says what made them, then {"id", "instruction", "expressive", "long"} each. They are appended
as they come; a line that was cut off is taken back. Several devices write FILE-0-of-4.jsonl, FILE-1-of-4.jsonl, ... for
FILE.jsonl.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from paintover.datasets.sample import RowError, optional, reason

_FORMAT = 1


class Told(NamedTuple):
    """An instruction, and what it means in full; None where the language model had nothing to say."""

    instruction: str
    expressive: str | None


def share_of(file: Path, share: tuple[int, int]) -> Path:
    """Where a share (its number from 0, of how many) is written."""
    number, count = share
    return file if count == 1 else file.with_name(f"{file.stem}-{number}-of-{count}{file.suffix}")


def parts(file: Path) -> list[Path]:
    """The file and its shares, those that are there."""
    pattern = re.compile(re.escape(file.stem) + r"-\d+-of-\d+" + re.escape(file.suffix))
    shares = sorted(path for path in file.parent.glob("*") if pattern.fullmatch(path.name))
    return [file, *shares] if file.is_file() else shares


def read(file: Path) -> dict[str, Told]:
    """What is told, by id: of the file and its shares, or of MGIE's own JSON, {id: {"instruction", "expressive"}}.

    Raises RowError when there is nothing there, or a line is none of these; a last line that was cut off is passed over.
    """
    if file.suffix == ".json":
        return _of_mgie(file)
    if not parts(file):
        raise RowError(f"{file}: no such file; make it with `paintover train expressive`")
    told: dict[str, Told] = {}
    for part in parts(file):
        _, lines = _lines(part)
        told |= {line["id"]: Told(line["instruction"], optional(line.get("expressive"))) for line in lines}
    return told


class Writer:
    """Appends to one share of `file`; `done` holds the ids that it or another share has already.

    made_by: what makes the lines, kept in each share's first line. Raises RowError when a share there was made by something
    else, or is no such file.
    """

    def __init__(self, file: Path, share: tuple[int, int], made_by: Mapping[str, Any]) -> None:
        self.file = share_of(file, share)
        header = {"format": _FORMAT, **made_by}
        _repair(self.file)
        self.done: set[str] = set()
        for part in parts(file):
            before, lines = _lines(part)
            if before is not None and before != header:
                differs = next(key for key in (*header, *before) if before.get(key) != header.get(key))
                raise RowError(
                    f"{part} was made with {differs} {before.get(differs)!r}, not {header.get(differs)!r}; write another file"
                )
            self.done |= {line["id"] for line in lines}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.stream = self.file.open("a", encoding="utf-8")
        if self.stream.tell() == 0:
            self._write(header)

    def add(self, name: str, instruction: str, expressive: str | None, long: str) -> None:
        self._write({"id": name, "instruction": instruction, "expressive": expressive, "long": long})
        self.done.add(name)

    def _write(self, line: Mapping[str, Any]) -> None:
        self.stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.stream.flush()

    def close(self) -> None:
        self.stream.close()


def _repair(file: Path) -> None:
    """Takes back what follows the last whole line: a line that a kill cut off."""
    if not file.is_file():
        return
    data = file.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(file, whole)


def _lines(file: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The first line, None where it is not whole yet, and the others."""
    found = []
    try:
        text = file.read_text(encoding="utf-8", errors="replace")  # a cut may fall inside a character
    except OSError as error:
        raise RowError(f"{file} cannot be read ({error.strerror})") from None
    for n, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        known = value if isinstance(value, dict) else {}
        if "format" not in known if n == 1 else any(not isinstance(known.get(key), str) for key in ("id", "instruction")):
            raise RowError(f"{file}, row {n}: no line of `paintover train expressive`; take it out, or make the file again")
        found.append(known)
    return (found[0], found[1:]) if found else (None, [])


def _of_mgie(file: Path) -> dict[str, Told]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        return {name: Told(str(told["instruction"]), optional(told["expressive"])) for name, told in value.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RowError(f'{file} is no JSON of {{id: {{"instruction", "expressive"}}}} ({reason(error)})') from None
