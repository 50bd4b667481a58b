"""Opens a dataset by the layout that its files show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from paintover.datasets import magicbrush, mgie_release, parquet, table, told
from paintover.datasets.columns import by_split
from paintover.datasets.dataset import Dataset
from paintover.datasets.instruct_pix2pix import Clip, InstructPix2Pix
from paintover.datasets.magicbrush import MagicBrush
from paintover.datasets.mgie_release import MgieRelease
from paintover.datasets.parquet import Parquet
from paintover.datasets.sample import RowError, Rows
from paintover.datasets.table import Table
from paintover.picture import Limits

KINDS = ("instruct-pix2pix", "magicbrush", "mgie", "parquet", "table")


def open_dataset(
    path: str | Path,
    kind: str | None = None,
    split: str = "train",
    *,
    expressive: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    pictures: str | Path | None = None,
    clip: Clip | None = None,
    limits: Limits = Limits(),
    masks: bool = False,
    skip_broken: bool = False,
) -> Dataset:
    """One split of the dataset in the folder, or the file, `path`. Splits are those that it is published with.

    kind: one of KINDS; None: what the files look like. expressive: a file that `paintover train expressive` made, or MGIE's own
    JSON. columns: of a table or parquet files, what is in which column ({"source": "input_file"}), where they are not called as
    usual. pictures: the folder from which a table names its pictures (None: the table's). clip: thresholds for the scores of
    InstructPix2Pix's pairs. masks: open them too. skip_broken: see Dataset. Raises RowError, one line that says what to do.
    """
    path = Path(path)
    kind = recognise(path) if kind is None else kind
    if kind not in KINDS:
        raise RowError(f"a dataset cannot be of the kind {kind!r}; it is one of {', '.join(KINDS)}")
    if columns and kind not in ("parquet", "table"):
        raise RowError(f"{path} is in the layout {kind}, which has no columns to name")
    if pictures is not None and kind != "table":
        raise RowError(f"{path} is in the layout {kind}, whose pictures lie where it says")
    if clip is not None and kind != "instruct-pix2pix":
        raise RowError(f"{path} is in the layout {kind}, which has no CLIP scores to filter by")
    rows: Rows
    if kind == "instruct-pix2pix":
        rows = InstructPix2Pix(path, split, clip)
    elif kind == "magicbrush":
        rows = MagicBrush(path, split)
    elif kind == "mgie":
        rows = MgieRelease(path, split)
    elif kind == "parquet":
        rows = Parquet(path, split, columns)
    else:
        rows = Table(path, split, columns, None if pictures is None else Path(pictures))
    known = None if expressive is None else told.read(Path(expressive))
    return Dataset(rows, known, limits=limits, masks=masks, skip_broken=skip_broken)


def splits_of(path: Path, kind: str, columns: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The splits that the dataset in a layout has, as published. Raises RowError when its files cannot be read."""
    if kind == "magicbrush":
        found = tuple(magicbrush.found(path))
    elif kind == "parquet":
        found = tuple(by_split(parquet.shards(path)))
    elif kind == "table":
        found = table.splits(path, columns)
    else:
        found = MgieRelease.splits if kind == "mgie" else InstructPix2Pix.splits
    if not found:
        raise RowError(f"{path} has nothing in the layout {kind}")
    return found


def recognise(path: Path) -> str:
    """Which of KINDS the files at `path` look like. Raises RowError when they look like none, or there are none."""
    if not path.exists():
        raise RowError(f"{path}: no such file or folder; name a dataset's")
    if path.is_dir():
        if mgie_release.found(path):
            return "mgie"
        if magicbrush.found(path):
            return "magicbrush"
        if (path / "seeds.json").is_file() or next(path.glob("*/prompt.json"), None) is not None:
            return "instruct-pix2pix"
        if parquet.shards(path):
            return "parquet"
        if table.tables(path):
            return "table"
        raise RowError(
            f"{path} looks like no dataset: expected seeds.json or */prompt.json (InstructPix2Pix), edit_turns.json "
            "(MagicBrush), *.parquet, or a CSV, TSV, JSON or JSONL table"
        )
    if path.suffix.lower() in table.SUFFIXES:
        return "table"
    if path.suffix.lower() == ".parquet":
        return "parquet"
    if path.suffix.lower() in (".pkl", ".pickle"):
        raise RowError(f"{path} is a pickle, which can run code and is never opened; name its folder, for the files beside it")
    raise RowError(f"{path} looks like no dataset; give a folder, or a CSV, TSV, JSON, JSONL or parquet file")
