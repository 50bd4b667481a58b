"""Whose weights walk a path: any path, through another network than the engine's own."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor

from paintover.path.predict import Network, Predict
from paintover.path.report import Progress

T = TypeVar("T")


def through(network: Network, path: Generator[Sequence[Predict], Sequence[Tensor], T]) -> Generator[Any, Any, T]:
    """The same path, walked by `network`: every prediction that names no network of its own is asked of this one."""
    answers: Sequence[Tensor] | None = None
    try:
        while True:
            try:
                asked = path.send(answers)  # type: ignore[arg-type]  # None, as a generator wants it at its start
            except StopIteration as end:
                return end.value
            if not isinstance(asked, Progress):
                asked = [one if one.network is not None else replace(one, network=network) for one in asked]
            answers = yield asked
    finally:
        path.close()
