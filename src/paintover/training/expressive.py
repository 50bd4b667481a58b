"""Expressive instructions to learn from, made once for a dataset: an untouched LLaVA says at length what the picture would be
like, and a T5 sums it up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from paintover.datasets import Dataset, RowError, Sample
from paintover.datasets.told import Writer
from paintover.engine.memory import out_of_memory
from paintover.errors import ModelError, PaintoverError
from paintover.models.answering import tidy
from paintover.training.explainers import MOST_TOKENS, PROMPT, SUMMARY, Speaker, Summariser


class Made(NamedTuple):
    """How many rows of the share were told now, had been before, and were broken and left out."""

    now: int
    before: int
    broken: int


def make(
    out: Path,
    dataset: Dataset,
    llava: str,
    summariser: str,
    *,
    share: tuple[int, int] = (0, 1),
    batch: int = 8,
    tokens: int = MOST_TOKENS,
    device: str | None = None,
    on_row: Callable[[int, int], None] | None = None,
) -> Made:
    """Appends a line to `out` for each row of the dataset that has none yet, `batch` rows at a time.

    llava, summariser: folders, or owner/name[@revision] of the hub; only safetensors are opened. share: (k, n) does the rows k,
    k + n, k + 2n, ... into a file of its own, for n devices at once. tokens: the most that LLaVA says. What made the lines is
    kept in the first one, and `out` is not continued by something else. Broken rows are left out if the dataset skips them.
    Raises RowError, ModelError, and PaintoverError where `out` cannot be written.
    """
    if out.is_dir() or not out.parent.is_dir():  # known before models are loaded for minutes
        raise PaintoverError(f"{out} cannot be written; name a file in a folder that is there")
    where = torch.device("cpu") if device is None and not torch.cuda.is_available() else torch.device(device or "cuda")
    speaker, summing = Speaker(llava, where, tokens), Summariser(summariser, where)
    made_by = {"llava": speaker.name, "summariser": summing.name, "prompt": PROMPT, "tokens": tokens, "summary": SUMMARY}
    writer = Writer(out, share, made_by)
    indices = range(share[0], len(dataset), share[1])
    now = before = broken = 0
    waiting: list[Sample] = []
    try:
        for n, i in enumerate(indices, start=1):
            try:
                if dataset.row(i).id in writer.done:
                    before += 1
                else:
                    waiting.append(dataset.read(i))
            except RowError:
                if not dataset.skip_broken:
                    raise
                broken += 1
            if len(waiting) == batch or (waiting and n == len(indices)):
                _tell(waiting, speaker, summing, writer)
                now += len(waiting)
                waiting = []
            if on_row is not None:
                on_row(n, len(indices))
    finally:
        writer.close()
    return Made(now, before, broken)


def _tell(samples: Sequence[Sample], speaker: Speaker, summing: Summariser, writer: Writer) -> None:
    try:
        longs = speaker.say([s.instruction for s in samples], [s.source.rgb_HWC for s in samples])
        short = summing.sum_up([tidy(long) for long in longs])
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise ModelError(
            f"out of memory with {len(samples)} rows at a time; ask for fewer (batch), or a smaller model"
        ) from None
    for sample, long, text in zip(samples, longs, short, strict=True):
        writer.add(sample.id, sample.instruction, text, long)
