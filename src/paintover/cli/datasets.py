"""`paintover train check-data`, `unpack` and `expressive`: datasets of others, looked through and made ready for MGIE."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from paintover.cli.pairs import Columns, Kind, Pictures, SkipBroken, columns_of
from paintover.cli.shared import AsJson, Device, counted, plain, print_json, tell
from paintover.cli.train import group
from paintover.errors import RequestError

_MOST = 300  # characters that are shown of an instruction
Data = Annotated[Path, typer.Argument(help="A dataset's folder, or its table.")]


@group.command()
def check_data(
    *,
    data: Data,
    kind: Kind = None,
    split: Annotated[str | None, typer.Option(help="One split alone (default: all).")] = None,
    expressive: Annotated[Path | None, typer.Option(help="What `train expressive` made of it.")] = None,
    column: Columns = None,
    pictures: Pictures = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Only the first rows of each split.")] = None,
    json: AsJson = False,
) -> None:
    """Read a dataset row by row, pictures too: how many pairs, splits, sizes, the first instructions, what is broken."""
    from dataclasses import asdict

    from paintover.datasets import open_dataset
    from paintover.datasets.check import check
    from paintover.datasets.opening import recognise, splits_of

    kind = kind or recognise(data)
    options: dict[str, Any] = {"expressive": expressive, "columns": columns_of(column), "pictures": pictures}
    names = splits_of(data, kind, options["columns"]) if split is None else (split,)
    found = []
    for name in names:
        dataset = open_dataset(data, kind, name, **options)
        with counted(f"reading {name}") as bar:
            found.append(check(dataset, rows, bar))
    if json:
        print_json({"kind": kind, "splits": [asdict(part) for part in found]})
    else:
        print(f"{data}: {kind}")
        for part in found:
            _print(part)
    if count := sum(len(part.broken) for part in found):
        raise RequestError(f"{count} of the rows that were read cannot be used; mend them, or train with --skip-broken")


@group.command()
def unpack(
    *,
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write the table and its pictures into.")],
    kind: Kind = None,
    split: Annotated[str, typer.Option(help="The split to unpack.")] = "train",
    column: Columns = None,
    pictures: Pictures = None,
    skip_broken: SkipBroken = False,
) -> None:
    """Write a split as a table with a file for each picture, which is fast to read in any order; parquet is not."""
    from paintover.datasets import open_dataset
    from paintover.datasets.unpack import unpack as write

    dataset = open_dataset(data, kind, split, columns=columns_of(column), pictures=pictures, skip_broken=skip_broken)
    with counted("unpacking") as bar:
        table = write(dataset, out, bar)
    count = len(dataset) - len(dataset.skipped)
    tell(f"paintover: {count} pair{'s' if count != 1 else ''}, {len(dataset.skipped)} broken and left out")
    print(table)


@group.command()
def expressive(
    *,
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="A JSONL file; rows that are in it already are skipped.")],
    llava: Annotated[str, typer.Option(help="A LLaVA in transformers' layout: a folder, or owner/name[@revision].")],
    summariser: Annotated[str, typer.Option(help="A T5 that sums up: likewise.")] = "google/flan-t5-xxl",
    kind: Kind = None,
    split: Annotated[str, typer.Option(help="The split to tell.")] = "train",
    column: Columns = None,
    pictures: Pictures = None,
    share: Annotated[str, typer.Option(metavar="K/N", help="Every N-th row from the K-th (from 0), for N devices.")] = "0/1",
    batch: Annotated[int, typer.Option(min=1, help="Rows at a time.")] = 8,
    tokens: Annotated[int, typer.Option(min=1, help="The most that LLaVA says.")] = 1024,
    skip_broken: SkipBroken = False,
    device: Device = None,
) -> None:
    """Say in full what each instruction of a dataset means for its picture: what MGIE's language model learns to say.

    LLaVA tells at length what the picture would be like, the summariser sums it up in one or two sentences. Stop it at any
    moment; the same command goes on.
    """
    from paintover.datasets import open_dataset
    from paintover.datasets.told import share_of

    number, count = _share(share)
    dataset = open_dataset(data, kind, split, columns=columns_of(column), pictures=pictures, skip_broken=skip_broken)
    from paintover.training.expressive import make

    with counted("saying what is meant") as bar:
        made = make(
            out, dataset, llava, summariser,
            share=(number, count), batch=batch, tokens=tokens, device=device, on_row=bar,
        )  # fmt: skip
    tell(f"paintover: {made.now} rows told, {made.before} had been before, {made.broken} broken and left out")
    print(share_of(out, (number, count)))


def _print(part: Any) -> None:
    print(
        f"{part.split}: {part.rows} pair{'s' if part.rows != 1 else ''}"
        + (f", the first {part.read + len(part.broken)} read" if _partly(part) else "")
    )
    if part.sizes:
        (h0, w0), (h1, w1) = part.sizes
        sizes = f"{w0} x {h0}" + ("" if (h0, w0) == (h1, w1) else f" to {w1} x {h1}")
        resized = f"; {part.resized} with a goal of another size" if part.resized else ""
        print(f"  sizes: {sizes}{resized}")
        print(f"  with an expressive instruction: {part.told}")
    for words in part.first:
        print(f"  {plain(words if len(words) <= _MOST else words[:_MOST] + ' ...')}")
    for line in part.broken:
        print(f"  broken: {plain(line)}")


def _partly(part: Any) -> bool:
    return part.read + len(part.broken) < part.rows


def _share(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not slash or not number.isdecimal() or not count.isdecimal() or not int(number) < int(count):
        raise RequestError(f"--share is {text!r}; expected K/N with K from 0 to N - 1, such as 0/4")
    return int(number), int(count)
