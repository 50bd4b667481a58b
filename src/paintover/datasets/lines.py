"""JSON lines that a long job appends to: first what makes them, then a line each; one that a kill cut off is taken back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paintover.datasets.sample import RowError, reason

FORMAT = 1


class Lines:
    """Appends to `file`; `found` holds the lines that it has already.

    made_by: what makes the lines, as JSON has it. Raises RowError when the file cannot be written, was made by something else,
    or is no such file.
    """

    def __init__(self, file: Path, made_by: Mapping[str, Any]) -> None:
        self.file, header = file, {"format": FORMAT, **made_by}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            _repair(file)
            before, self.found = read(file) if file.exists() else (None, [])
            if before is not None and before != header:
                differs = next(key for key in (*header, *before) if before.get(key) != header.get(key))
                was, now = (str(made.get(differs))[:80] for made in (before, header))
                raise RowError(f"{file} was made with {differs} {was}, not {now}; write into another folder")
            self.stream = file.open("a", encoding="utf-8")
            if before is None:
                self._write(header)
        except OSError as error:
            raise RowError(f"{file} cannot be written ({reason(error)}); name another folder") from None

    def add(self, line: Mapping[str, Any]) -> None:
        self._write(line)
        self.found.append(dict(line))

    def _write(self, line: Mapping[str, Any]) -> None:
        self.stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.stream.flush()

    def close(self) -> None:
        self.stream.close()


def read(file: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The first line, None where it is not whole yet, and the others; a last one that was cut off is passed over.

    Raises RowError when the file cannot be read, or a line is no JSON object.
    """
    try:
        text = file.read_text(encoding="utf-8", errors="replace")  # a cut may fall inside a character
    except OSError as error:
        raise RowError(f"{file} cannot be read ({reason(error)})") from None
    found = []
    for n, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict) or (n == 1 and value.get("format") != FORMAT):
            raise RowError(f"{file}, row {n}: no line of a file that paintover writes; take it out, or make the file again")
        found.append(value)
    return (found[0], found[1:]) if found else (None, [])


def _repair(file: Path) -> None:
    if file.is_file():
        data = file.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(file, whole)
