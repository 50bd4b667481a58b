"""What MGIE's own preparation writes: a TSV of base64 JPEG pairs, and a JSON of instructions and what they mean.

It links them by a pickle of tasks as well, which can run code and is never opened: line n of the TSV is entry n of the JSON,
the order in which both are written.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paintover.datasets.sample import Row, RowError, chosen, optional, reason, words
from paintover.models.files import cache_folder

_READ = 1 << 24  # bytes at a time, when lines are counted


def found(folder: Path) -> tuple[Path, Path] | None:
    """NAME.tsv and NAME_expressive.json, if they are there."""
    for file in sorted(folder.glob("*_expressive.json")):
        tsv = file.with_name(file.name.removesuffix("_expressive.json") + ".tsv")
        if tsv.is_file():
            return tsv, file
    return None


class MgieRelease:
    """Every pair; all of them are "train". Raises RowError when a file cannot be read, or there are more lines than entries."""

    splits: tuple[str, ...] = ("train",)

    def __init__(self, folder: Path, split: str) -> None:
        files = found(folder)
        if files is None:
            raise RowError(f"{folder} has no NAME.tsv with a NAME_expressive.json beside it")
        self.split = chosen(split, self.splits, folder)
        self.tsv, self.file = files
        try:
            told = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RowError(f"{self.file} is not readable JSON ({reason(error)})") from None
        if not isinstance(told, dict):
            raise RowError(f"{self.file} is no JSON object of pairs")
        self.told = list(told.items())
        self.ends = _ends(self.tsv)
        if len(self.ends) != len(self.told):
            raise RowError(
                f"{self.tsv} has {len(self.ends)} lines but {self.file.name} {len(self.told)} entries, only their order says "
                "which is of which (the pickle of tasks says so too, but can run code and is never opened)"
            )

    def __len__(self) -> int:
        return len(self.told)

    def row(self, i: int) -> Row:
        where, (name, told) = f"{self.tsv}, row {i + 1}", self.told[i]
        if not isinstance(told, dict):
            raise RowError(f"{self.file}: {name!r} is no JSON object")
        start = int(self.ends[i - 1]) if i else 0
        with self.tsv.open("rb") as file:
            file.seek(start)
            cells = file.read(int(self.ends[i]) - start).strip().split(b"\t")
        if len(cells) != 2:
            raise RowError(f"{where}: {len(cells)} cells; expected two pictures in base64")
        try:
            source, target = (base64.b64decode(cell, validate=True) for cell in cells)
        except ValueError as error:
            raise RowError(f"{where}: no base64 ({error})") from None
        instruction = words(told.get("instruction"), "instruction", f"{self.file}, {name!r}")
        return Row(name, where, source, target, instruction, optional(told.get("expressive")))


def _ends(tsv: Path) -> NDArray[np.int64]:
    """Where each line ends, in bytes; kept, since it takes minutes for a file of many gigabytes."""
    about = tsv.stat()
    key = hashlib.sha256(f"{tsv.resolve()} {about.st_size} {about.st_mtime_ns}".encode()).hexdigest()[:24]
    kept = cache_folder() / "lines" / f"{key}.npy"
    try:
        return np.load(kept, allow_pickle=False)
    except (OSError, ValueError):
        pass
    ends, at = [np.zeros(0, np.int64)], 0
    with tsv.open("rb") as file:
        while block := file.read(_READ):
            ends.append(at + 1 + np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")).astype(np.int64))
            at += len(block)
    found = np.concatenate(ends)
    if at and (not len(found) or found[-1] != at):  # the last line without an end
        found = np.append(found, at)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as file:
            np.save(file, found)
        part.replace(kept)
    except OSError:
        pass  # it costs time, nothing else
    return found
