"""Where a path stands, what progress bars and previews are made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from paintover.path.predict import Predict
from paintover.path.schedule import Step


class Progress(Sequence[Predict]):
    """A round that asks nothing: a path yields it after each step, and whoever drives the path sends back nothing ([]).

    i, total: the step just made (from 0) and how many there are.
    what: the kind of step, in a word for people; "" where it is the walk that they wait for.
    """

    __slots__ = ("i", "total", "what")

    def __init__(self, i: int, total: int, what: str = "") -> None:
        self.i, self.total, self.what = i, total, what

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: Any) -> Any:
        raise IndexError("a report of progress asks for no predictions")


class Report(Progress):
    """A step of a walk. x_BCHW: the latents after it."""

    __slots__ = ("_before", "_eps", "_step", "x_BCHW")

    def __init__(self, step: Step, i: int, total: int, before_BCHW: Tensor, eps_BCHW: Tensor, x_BCHW: Tensor) -> None:
        super().__init__(i, total)
        self.x_BCHW = x_BCHW
        self._step, self._before, self._eps = step, before_BCHW, eps_BCHW

    def x0(self) -> Tensor:
        """The clean latents that this step foresaw: what a preview should decode. Computed only when asked for."""
        return self._step.x0(self._before, self._eps)
