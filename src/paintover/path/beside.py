"""Parts of a path that do not wait for one another, asked in the same rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from paintover.path.predict import Path, Predict


def beside(parts: Sequence[Path]) -> Any:
    """A part of a path that drives all `parts` at once and returns what each returns (a list, in order).

    Round by round, what they ask is asked together. A part's reports are not passed on.
    """
    returned: list[Tensor | None] = [None] * len(parts)
    asked: dict[int, Sequence[Predict]] = {}
    answers: dict[int, Sequence[Tensor] | None] = dict.fromkeys(range(len(parts)))
    while answers:
        for n, answer in answers.items():
            try:
                asked[n] = parts[n].send(answer)  # type: ignore[arg-type]
            except StopIteration as end:
                returned[n] = end.value
        flat = [ask for asks in asked.values() for ask in asks]
        answered = (yield flat) if flat else []
        answers = {}
        for n, asks in asked.items():
            answers[n], answered = answered[: len(asks)], answered[len(asks) :]
        asked = {}
    return returned
