"""MagicBrush in folders: edit_turns.json beside images/ID/ID-input.png, ID-mask1.png, ID-output1.png, ...; one such a split."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from paintover.datasets.sample import Row, RowError, chosen, inside, optional, reason, words

SPLITS = ("train", "dev", "test")


def found(folder: Path) -> dict[str, Path]:
    """The split folders that are there, by name; the folder itself where it is one."""
    if (folder / "edit_turns.json").is_file():
        return {folder.resolve().name: folder}
    return {name: folder / name for name in SPLITS if (folder / name / "edit_turns.json").is_file()}


class MagicBrush:
    """Every turn of a split, each from the true picture of the turn before. Its id is IMAGE-TURN, its session the image's id.

    Raises RowError when the list of turns cannot be read, or there is no such split.
    """

    def __init__(self, folder: Path, split: str) -> None:
        folders = found(folder)
        self.splits = tuple(folders)
        self.split = chosen(split, self.splits, folder)
        self.folder = folders[split]
        self.file = self.folder / "edit_turns.json"
        turns = _json(self.file)
        if not isinstance(turns, list):
            raise RowError(f"{self.file} is no list of turns")
        self.turns: list[Any] = turns
        # In the dev and test splits only; training has no captions.
        captions = self.folder / "global_descriptions.json"
        self.captions: Any = _json(captions) if captions.is_file() else {}
        if not isinstance(self.captions, dict):
            raise RowError(f"{captions} is no JSON object of captions; mend it, or take it away")

    def __len__(self) -> int:
        return len(self.turns)

    def row(self, i: int) -> Row:
        where, turn = f"{self.file}, row {i + 1}", self.turns[i]
        if not isinstance(turn, dict):
            raise RowError(f"{where}: no JSON object")
        names = {key: words(turn.get(key), f'"{key}"', where) for key in ("input", "output")}
        image = names["input"].partition("-")[0]
        place = inside(self.folder / "images", image, "folder", where)
        number = re.search(r"output(\d{1,6})\.\w+$", names["output"])
        if number is None:
            raise RowError(f"{where}: its output {names['output']!r} says no turn; expected ID-output1.png")
        captions = self.captions.get(image)
        captions = captions if isinstance(captions, dict) else {}
        return Row(
            id=f"{image}-{int(number[1])}",
            where=where,
            source=inside(place, names["input"], "input", where),
            target=inside(place, names["output"], "output", where),
            instruction=words(turn.get("instruction"), '"instruction"', where),
            source_caption=optional(captions.get(names["input"])),
            target_caption=optional(captions.get(names["output"])),
            mask=inside(place, turn["mask"], "mask", where) if turn.get("mask") else None,
            session=image,
            turn=int(number[1]),
        )


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RowError(f"{file} is not readable JSON ({reason(error)})") from None
