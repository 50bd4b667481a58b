"""Instructions that speak of pictures and sounds, in the form of InstructAny2Pix's MM-Inst.

A JSON list of samples, and a media map. A sample has `base` and `result` (captions), `conversations` of two turns (`from`
human, then gpt; `value`), and may have `added`: [[name, "[caption]"], ...]; `target`: null says that there is no picture of the
result. Captions in brackets are keys of the map, whose entries say where the file is: {"fpath": "data/1.jpg.npz", "key":
"clip"}; the .npz holds its embedding, the file lies beside it without that ending. A caption in brackets that the map does not
know, or whose file is not there, is words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from paintover.datasets.collection import kind_of
from paintover.datasets.instruction import Given, Instruction
from paintover.datasets.sample import RowError, inside, reason
from paintover.models.any2pix_wording import Answer

SAMPLES, MEDIA = "instruction.json", "media.json"
_BRACKETS = re.compile(r"\[([^\[\]]+)\]")
_TOKENS = re.compile(r"<(?:base|base_null|im_gen|video)>")


class MMInst:
    """`data[i]` is an Instruction.

    path: a folder with instruction.json and media.json, or with out_any*.json and media_map.json as published, or a file of
    samples. media: the map, if it has another name. root: the folder that the map names its files from (None: its own). Which
    files are there is asked of each row when it is read; none is opened. Raises RowError, one line that says what to do.
    """

    def __init__(self, path: str | Path, media: str | Path | None = None, root: str | Path | None = None) -> None:
        self.file, self.map = _found(Path(path), None if media is None else Path(media))
        self.root = self.map.parent if root is None else Path(root)
        self.samples = _json(self.file, list)
        self._media = _json(self.map, dict)

    @cached_property
    def entries(self) -> dict[str, Any]:
        """The map's, by their keys as they are looked up."""
        return {clean(str(key)): entry for key, entry in self._media.items()}

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Instruction]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> Instruction:
        i = range(len(self))[i]
        where = f"{self.file}, row {i + 1}"
        human, answered = _turns(self.samples[i], where)
        added = _added(self.samples[i], where)
        base = self._base(self.samples[i], answered, where)
        media: dict[str, Given] = {}
        names: dict[str, str] = {} if base is None else {base.key: "image1"}

        def named(match: re.Match[str]) -> str:
            given = self._given(match[1], where)
            if given is None:
                return match[1]
            if given.key not in names:
                used = sum(name.startswith(given.kind) for name in names.values())
                names[given.key] = f"{given.kind}{used + 1}"
            media[names[given.key]] = given
            return f"[{names[given.key]}]"

        said = " ".join(_BRACKETS.sub(named, _TOKENS.sub(" ", human)).split())
        if base is not None:
            media.setdefault("image1", base)
        subs = []
        for noun, key in added:
            given = self._given(key, where)
            if given is not None and given.key in names and given.key != (base and base.key):
                subs.append((noun, names[given.key]))
        caption, target = self._wanted(self.samples[i], answered, where)
        answer = Answer(caption, base is not None, tuple(noun for noun, _ in subs))
        name = self.samples[i].get("id")
        return Instruction(
            str(i if name is None else name),
            where,
            said,
            answer,
            media,
            None if base is None else "image1",
            tuple(subs),
            target,
        )

    def _base(self, sample: dict[str, Any], answered: str, where: str) -> Given | None:
        base = sample.get("base")
        if not isinstance(base, str) or "<base_null>" in answered:
            return None
        given = self._given(base.strip().removeprefix("[").removesuffix("]"), where)
        return given if given is not None and given.kind == "image" else None

    def _wanted(self, sample: dict[str, Any], answered: str, where: str) -> tuple[str, Given | None]:
        base = clean(str(sample.get("base", "")))
        results = [key for key in _BRACKETS.findall(answered) if clean(key) != base]
        if len(results) > 1:
            raise RowError(f"{where}: {len(results)} results in brackets; expected one")
        caption = results[0] if results else sample.get("result")
        if not isinstance(caption, str) or not caption.strip():
            raise RowError(f"{where}: it does not say what the result shows")
        caption = " ".join(caption.split())
        if sample.get("target", caption) is None:  # a picture that is called so is another one
            return caption, None
        given = self._given(caption, where)
        return caption, given if given is not None and given.kind == "image" else None

    def _given(self, key: str, where: str) -> Given | None:
        """What the map has by this key; None where it has nothing, or nothing of it is there."""
        entry = self.entries.get(clean(key))
        if entry is None:
            return None
        path = entry.get("fpath") if isinstance(entry, dict) else None
        kept = inside(self.root, path, "file", f"{self.map}, {key[:60]!r}")
        file = kept.with_suffix("") if kept.suffix == ".npz" else kept
        embedding = kept if kept.suffix == ".npz" else kept.with_name(f"{kept.name}.npz")
        kind = kind_of(file.name)
        here, known = file.is_file(), embedding.is_file()
        if kind is None or not (here or known):
            return None
        caption = entry.get("caption")
        caption = caption if isinstance(caption, str) and caption.strip() else key
        array = str(entry.get("key", "clip"))
        return Given(clean(key), kind, caption, file if here else None, embedding if known else None, array)


def clean(key: str) -> str:
    """A caption as a key: what is written differently but is the same."""
    return key.strip().strip("[]").lower().strip().replace(".", "")


def _found(path: Path, media: Path | None) -> tuple[Path, Path]:
    if path.is_dir():
        own = [path / SAMPLES, *sorted(path.glob("out_any*.json"))]
        file = next((file for file in own if file.is_file()), None)
        if file is None:
            raise RowError(f"{path} holds no {SAMPLES}; make it with `paintover train instructions`")
        path = file
    if media is None:
        media = next((file for name in (MEDIA, "media_map.json") if (file := path.parent / name).is_file()), None)
        if media is None:
            raise RowError(f"{path.parent} holds no {MEDIA}; name the media map")
    return path, media


def _json(file: Path, kind: type) -> Any:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RowError(f"{file} is not readable JSON ({reason(error)})") from None
    if not isinstance(value, kind):
        raise RowError(f"{file} is no JSON {'list of samples' if kind is list else 'object of media'}")
    return value


def _turns(sample: Any, where: str) -> tuple[str, str]:
    turns = sample.get("conversations") if isinstance(sample, dict) else None
    said = {turn.get("from"): turn.get("value") for turn in turns if isinstance(turn, dict)} if isinstance(turns, list) else {}
    human, answered = said.get("human"), said.get("gpt")
    if not isinstance(human, str) or not human.strip() or not isinstance(answered, str):
        raise RowError(f"{where}: no conversation of two turns, human and gpt")
    return human, answered


def _added(sample: dict[str, Any], where: str) -> list[tuple[str, str]]:
    added = sample.get("added") or []
    try:
        return [(str(noun), str(key).strip().removeprefix("[").removesuffix("]")) for noun, key, *_ in added]
    except (TypeError, ValueError):
        raise RowError(f'{where}: `added` is no list of [name, "[caption]"]') from None
