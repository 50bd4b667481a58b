"""Which column of a table is what: by the names that are usual, or as told."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from paintover.datasets.sample import Row, RowError, optional, words

NEEDED = ("source", "target", "instruction")
# The first that is there counts. img0, img1, sents: EVR's own; original_image, edit_prompt, ...: InstructPix2Pix's on the hub.
USUAL = {
    "source": ("source", "source_image", "source_img", "input", "input_image", "original_image", "original", "before", "img0"),
    "target": (
        *("target", "target_image", "target_img", "goal", "goal_image", "output", "output_image"),
        *("edited_image", "edited", "after", "img1"),
    ),
    "instruction": ("instruction", "edit", "edit_prompt", "request", "sents", "prompt", "text"),
    "expressive": ("expressive",),
    "source_caption": ("source_caption", "input_caption", "original_prompt", "caption"),
    "target_caption": ("target_caption", "output_caption", "goal_caption", "edited_prompt"),
    "mask": ("mask", "mask_image", "mask_img"),
    "id": ("id", "uid"),
    "session": ("session", "img_id"),
    "turn": ("turn", "turn_index"),
    "split": ("split",),
}
_SPLITS = ("train", "val", "valid", "validation", "dev", "test")


def find(names: Iterable[str], given: Mapping[str, str], where: Path) -> dict[str, str]:
    """What each column is: {"source": name, ...}. Raises RowError when one that is needed, or told, is not there."""
    names = [name for name in names if name]
    alike = {name.strip().lower(): name for name in names}
    if unknown := sorted(given.keys() - USUAL.keys()):
        raise RowError(f"a column cannot be {unknown[0]!r}; it is one of {', '.join(USUAL)}")
    found = {}
    for what, usual in USUAL.items():
        if what in given:
            if given[what] not in names:
                raise RowError(f"{where} has no column {given[what]!r}; it has {', '.join(names)}")
            found[what] = given[what]
        elif name := next((alike[word] for word in usual if word in alike), None):
            found[what] = name
    for what in NEEDED:
        if what not in found:
            raise RowError(f"{where} has the columns {', '.join(names)}; say which is the {what} (columns: {what}=NAME)")
    return found


def split_of(file: Path) -> str | None:
    """The split that a file's name says, as "train-00000-of-00004.parquet" does; else that its folder is; None for neither."""
    said = [word for word in re.split(r"[^a-z]+", file.stem.lower()) if word in _SPLITS]
    if said:
        return said[0]
    folder = file.resolve().parent.name
    return folder if folder in _SPLITS else None


def by_split(files: Iterable[Path]) -> dict[str, list[Path]]:
    """Files by the split that they are of, "train" where none is said."""
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(split_of(file) or "train", []).append(file)
    return found


def turn_of(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def id_of(get: Mapping[str, Any], file: Path, n: int) -> str:
    """A row's id, by what its cells are: the `id`, else SESSION-TURN, else FILE-ROW."""
    own, session, turn = (get.get(name) for name in ("id", "session", "turn"))
    if own not in (None, ""):
        return str(own)
    return f"{file.stem}-{n}" if session in (None, "") or turn in (None, "") else f"{session}-{turn}"


def row_of(get: Mapping[str, Any], name: str, where: str, picture: Callable[[Any, str, str], Path | bytes]) -> Row:
    """The row called `name`, by what its cells are. picture: makes a path or bytes of a cell, what it is, and `where`."""
    return Row(
        id=name,
        where=where,
        source=picture(get["source"], "source", where),
        target=picture(get["target"], "target", where),
        instruction=words(get["instruction"], "instruction", where),
        expressive=optional(get.get("expressive")),
        source_caption=optional(get.get("source_caption")),
        target_caption=optional(get.get("target_caption")),
        mask=picture(get["mask"], "mask", where) if get.get("mask") else None,
        session=None if get.get("session") is None else str(get["session"]),
        turn=turn_of(get.get("turn")),
    )
