"""A split as a table with a file for each picture: what parquet and TSV files are made into, to be read fast in any order."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from paintover.datasets.dataset import Dataset
from paintover.datasets.sample import RowError, reason
from paintover.errors import PictureError
from paintover.picture import Limits
from paintover.picture import open as open_picture
from paintover.picture.source import read_bytes

_KINDS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp"}


def unpack(dataset: Dataset, out: Path, on_row: Callable[[int, int], None] | None = None) -> Path:
    """Writes out/SPLIT.jsonl, which it returns, and its pictures as they are into out/SPLIT/; ids stay what they are.

    The table is there when all of it is; begun anew, pictures that are there already are kept. Broken rows are left out if the
    dataset skips them. Raises RowError for them otherwise, and where the table is there already.
    """
    table, folder = out / f"{dataset.split}.jsonl", out / dataset.split
    if table.exists():
        raise RowError(f"{table} exists; name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RowError(f"{out} cannot hold the pictures ({reason(error)}); name another folder") from None
    part = table.with_suffix(".part")
    with part.open("w", encoding="utf-8") as lines:
        for i in range(len(dataset)):
            try:
                row = dataset.row(i)
                pictures = {"source": row.source, "target": row.target} | ({} if row.mask is None else {"mask": row.mask})
                files = {name: _bytes(picture, row.where, dataset.limits) for name, picture in pictures.items()}
                line = {
                    "id": row.id,
                    **{name: _put(data, folder, f"{i:07d}-{name}") for name, data in files.items()},
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


def _put(data: bytes, folder: Path, name: str) -> str:
    """Writes the file's bytes, and returns its path from the table's folder."""
    suffix = next((kind for head, kind in _KINDS.items() if data.startswith(head)), ".img")
    file = folder / f"{name}{suffix}"
    if not file.is_file() or file.stat().st_size != len(data):
        file.write_bytes(data)
    return f"{folder.name}/{file.name}"


def _bytes(picture: Path | bytes, where: str, limits: Limits) -> bytes:
    """The bytes of a picture's file. Raises RowError for what is none: whatever else lies there is not copied."""
    try:
        open_picture(picture, limits)
        return read_bytes(picture, limits) if isinstance(picture, Path) else picture
    except PictureError as error:
        raise RowError(f"{where}: {error}") from None
