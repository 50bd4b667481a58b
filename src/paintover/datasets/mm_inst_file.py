"""Writes MM-Inst's form: the samples, the media map, and the media themselves, linked or copied beside them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paintover.datasets.collection import Medium
from paintover.datasets.mm_inst import MEDIA, SAMPLES, clean
from paintover.datasets.sample import RowError, reason


def keys_of(media: Sequence[Medium]) -> dict[Medium, str]:
    """What each is called in brackets: its caption, with a number where an earlier one has the same."""
    keys: dict[Medium, str] = {}
    taken: set[str] = set()
    for medium in media:
        key, n = medium.caption.rstrip(". "), 1
        while clean(key) in taken:
            n += 1
            key = f"{medium.caption.rstrip('. ')} #{n}"
        taken.add(clean(key))
        keys[medium] = key
    return keys


def write(out: Path, samples: Sequence[Mapping[str, Any]], media: Sequence[Medium]) -> None:
    """Media that the samples speak of first, then the map, and the samples last: each is whole, or not there.

    Raises RowError where they cannot be written.
    """
    try:
        _write(out, samples, media)
    except OSError as error:
        raise RowError(f"{out} cannot hold the instructions ({reason(error)}); name another folder") from None


def _write(out: Path, samples: Sequence[Mapping[str, Any]], media: Sequence[Medium]) -> None:
    by_key = {clean(key): medium for medium, key in keys_of(media).items()}
    number = {medium: n for n, medium in enumerate(media)}
    (out / "media").mkdir(parents=True, exist_ok=True)
    entries: dict[str, dict[str, str]] = {}
    for one in samples:
        spoken = [one["base"], *(key for _, key in one["added"]), *_in_brackets(one["conversations"][0]["value"])]
        for key in map(clean, spoken):
            if key not in entries:
                medium = by_key[key]
                name = f"media/{number[medium]:07d}{medium.file.suffix.lower()}"
                _link(medium.file, out / name)
                entries[key] = {"fpath": f"{name}.npz", "key": "clip", "caption": medium.caption}
    _replace(out / MEDIA, entries)
    _replace(out / SAMPLES, samples)


def _in_brackets(text: str) -> list[str]:
    return [part.partition("]")[0] for part in text.split("[")[1:]]


def _link(source: Path, target: Path) -> None:
    if target.is_file():
        return
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), part)
    except OSError:  # another disk, or one that has no links
        shutil.copyfile(source, part)
    part.replace(target)


def _replace(file: Path, value: Any) -> None:
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    part.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    part.replace(file)
