"""A split of a dataset, read at any index: rows with their pictures opened and with what their instructions mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from paintover.datasets.sample import Row, RowError, Rows, Sample
from paintover.datasets.told import Told
from paintover.errors import PaintoverError
from paintover.picture import Limits
from paintover.picture import open as open_picture


class Dataset:
    """`dataset[i]` is a Sample, the same one whenever it is asked for, so that a run can go on from an index.

    split, splits: which this is, of which. told: expressive instructions by id; they take the place of the rows' own.
    skip_broken: in place of a row that cannot be read `dataset[i]` is the next one that can, and a loop over the dataset leaves
    it out; `skipped` holds the indices of those met so far. Otherwise it raises RowError, one line with the file and the row.
    """

    def __init__(
        self,
        rows: Rows,
        told: Mapping[str, Told] | None = None,
        *,
        limits: Limits = Limits(),
        masks: bool = False,
        skip_broken: bool = False,
    ) -> None:
        self.rows, self.told, self.limits, self.masks, self.skip_broken = rows, told, limits, masks, skip_broken
        self.split, self.splits = rows.split, rows.splits
        self.skipped: set[int] = set()

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, i: int) -> Row:
        """What the files say of the pair; no picture is opened. Raises RowError where they say too little."""
        i = self._index(i)
        row = self.rows.row(i)
        told = None if self.told is None else self.told.get(row.id)
        if told is None:
            return row
        if " ".join(told.instruction.split()) != row.instruction:
            raise RowError(f"{row.where}: what its instruction means was told of another one, {told.instruction[:80]!r}")
        return replace(row, expressive=told.expressive)

    def read(self, i: int) -> Sample:
        """The pair at `i` itself, with its pictures opened. Raises RowError when it is broken."""
        row = self.row(i)
        try:
            source, target = open_picture(row.source, self.limits), open_picture(row.target, self.limits)
            mask = open_picture(row.mask, self.limits) if self.masks and row.mask is not None else None
        except PaintoverError as error:
            raise RowError(f"{row.where}: {error}") from None
        return Sample(
            row.id, source, target, row.instruction, row.expressive,
            row.source_caption, row.target_caption, mask, row.session, row.turn,
        )  # fmt: skip

    def __getitem__(self, i: int) -> Sample:
        i = self._index(i)
        if not self.skip_broken:
            return self.read(i)
        for j in (*range(i, len(self)), *range(i)):
            try:
                return self.read(j)
            except RowError:
                self.skipped.add(j)
        raise RowError(f"none of the {len(self)} rows can be read")

    def __iter__(self) -> Iterator[Sample]:
        for i in range(len(self)):
            try:
                yield self.read(i)
            except RowError:
                if not self.skip_broken:
                    raise
                self.skipped.add(i)

    def sessions(self) -> dict[str, list[int]]:
        """The indices of edits that follow one another, in the order of their turns, by session."""
        found: dict[str, list[tuple[int, int]]] = {}
        for i in range(len(self)):
            row = self.row(i)
            if row.session is not None:
                found.setdefault(row.session, []).append((row.turn or 0, i))
        return {name: [i for _, i in sorted(turns)] for name, turns in found.items()}

    def _index(self, i: int) -> int:
        if not -len(self) <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        return i % len(self)
