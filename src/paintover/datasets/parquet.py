"""Parquet files with pictures in them, as the hub keeps MagicBrush and others. Needs pyarrow."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from paintover.datasets.columns import by_split, find, id_of, row_of
from paintover.datasets.sample import Row, RowError, chosen, reason


def shards(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.rglob("*.parquet"))


class Parquet:
    """The rows of the files of one split ("train-00000-of-00004.parquet", or a folder train/), in the order of their names.

    columns: as for a table; a picture's column holds {"bytes", "path"}, as the hub's do, or a file's bytes. Ids are the `id`
    column's, SESSION-TURN (MagicBrush's img_id and turn_index), or FILE-ROW. A group of rows is read at once and the last one
    kept, so that reading in order is fast and reading anywhere slow. Raises RowError when pyarrow is not installed, a file
    cannot be read or lacks a column, or there is no such split.
    """

    def __init__(self, path: Path, split: str, columns: Mapping[str, str] | None = None) -> None:
        if find_spec("pyarrow") is None:
            raise RowError(f"reading {path} needs pyarrow: pip install 'paintover[parquet]'")
        import pyarrow.parquet as pq

        files = by_split(shards(path))
        self.splits = tuple(files)
        self.split = chosen(split, self.splits, path)
        self.groups: list[tuple[Path, int, int]] = []  # file, group, the row of the file that it begins with
        self.starts: list[int] = []
        self.total = 0
        for file in files[split]:
            try:
                about = pq.read_metadata(file)
                names = pq.read_schema(file).names
            except Exception as error:  # pyarrow has its own kinds
                raise RowError(f"{file} is no readable parquet file ({reason(error)})") from None
            self.columns = find(names, columns or {}, file)
            first = 0
            for group in range(about.num_row_groups):
                self.groups.append((file, group, first))
                self.starts.append(self.total)
                count = about.row_group(group).num_rows
                first, self.total = first + count, self.total + count

    def __len__(self) -> int:
        return self.total

    def row(self, i: int) -> Row:
        at = bisect_right(self.starts, i) - 1
        file, group, first = self.groups[at]
        n = i - self.starts[at]
        where = f"{file}, row {first + n + 1}"
        try:
            cells = _group(file, group, tuple(self.columns.values())).slice(n, 1).to_pylist()[0]
        except Exception as error:
            raise RowError(f"{where}: cannot be read ({reason(error)})") from None
        get = {name: cells.get(column) for name, column in self.columns.items()}
        return row_of(get, id_of(get, file, first + n + 1), where, _bytes)


@lru_cache(maxsize=2)
def _group(file: Path, group: int, columns: tuple[str, ...]) -> Any:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as parquet:
        return parquet.read_row_group(group, columns=list(columns))


def _bytes(value: Any, what: str, where: str) -> bytes:
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes) or not data:
        raise RowError(f"{where}: its {what} is no picture")
    return data
