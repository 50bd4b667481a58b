"""What a dataset holds, row by row: how many pairs, how large, what is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from paintover.datasets.dataset import Dataset
from paintover.datasets.sample import RowError

_FIRST = 3  # instructions that are shown


@dataclass(slots=True)
class Found:
    """Of one split: `rows` that it has, and of those that were `read` what follows.

    sizes: (height, width) of the smallest and the largest source, by their pixels. resized: pairs whose goal has another size
    than the source. told: rows with an expressive instruction. broken: a line for each row that cannot be used.
    """

    split: str
    rows: int
    read: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)
    resized: int = 0
    told: int = 0
    first: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def check(dataset: Dataset, most: int | None = None, on_row: Callable[[int, int], None] | None = None) -> Found:
    """Reads every row, or the first `most`, and opens its pictures. on_row: told how many of how many are done."""
    count = len(dataset) if most is None else min(most, len(dataset))
    found = Found(dataset.split, len(dataset))
    for i in range(count):
        try:
            sample = dataset.read(i)
        except RowError as error:
            found.broken.append(str(error))
        else:
            found.read += 1
            size = sample.source.size_HW
            ends = sorted([*found.sizes, size], key=lambda s: (s[0] * s[1], s))
            found.sizes = [ends[0], ends[-1]]
            found.resized += sample.target.size_HW != size
            found.told += sample.expressive is not None
            if len(found.first) < _FIRST:
                found.first.append(sample.instruction)
        if on_row is not None:
            on_row(i + 1, count)
    return found
