"""A split as a table with a file for each picture: what parquet and TSV files are made into, to be read fast in any order."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from paintover.datasets.dataset import Dataset
from paintover.datasets.sample import RowError, reason

_KINDS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp"}


def unpack(dataset: Dataset, out: Path, on_row: Callable[[int, int], None] | None = None) -> Path:
    """Writes out/SPLIT.jsonl, which it returns, and its pictures as they are into out/SPLIT/; ids stay what they are.

    The table is there when all of it is; begun anew, pictures that are there already are kept. Broken rows are left out if the
    dataset skips them. Raises RowError for them otherwise, and where the table is there already.
    """
    table, folder = out / f"{dataset.split}.jsonl", out / dataset.split
    if table.exists():
        raise RowError(f"{table} exists; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    part = table.with_suffix(".part")
    with part.open("w", encoding="utf-8") as lines:
        for i in range(len(dataset)):
            try:
                row = dataset.row(i)
                line = {
                    "id": row.id,
                    "source": _put(row.source, row.where, folder, f"{i:07d}-source"),
                    "target": _put(row.target, row.where, folder, f"{i:07d}-target"),
                    "mask": None if row.mask is None else _put(row.mask, row.where, folder, f"{i:07d}-mask"),
                    "instruction": row.instruction,
                    "expressive": row.expressive,
                    "source_caption": row.source_caption,
                    "target_caption": row.target_caption,
                    "session": row.session,
                    "turn": row.turn,
                }
            except RowError:
                if not dataset.skip_broken:
                    raise
                dataset.skipped.add(i)
            else:
                told = {name: value for name, value in line.items() if value is not None}
                lines.write(json.dumps(told, ensure_ascii=False) + "\n")
            if on_row is not None:
                on_row(i + 1, len(dataset))
    part.replace(table)
    return table


def _put(picture: Path | bytes, where: str, folder: Path, name: str) -> str:
    """Writes the file's bytes, and returns its path from the table's folder."""
    data = picture if isinstance(picture, bytes) else _bytes(picture, where)
    suffix = next((kind for head, kind in _KINDS.items() if data.startswith(head)), ".img")
    file = folder / f"{name}{suffix}"
    if not file.is_file() or file.stat().st_size != len(data):
        file.write_bytes(data)
    return f"{folder.name}/{file.name}"


def _bytes(file: Path, where: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise RowError(f"{where}: {file}: {reason(error)}") from None
