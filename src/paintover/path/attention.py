"""An edit that looks into the network while it sees the source: rows beside rows, and where in the picture words are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from torch import Tensor

from paintover.errors import KnobError
from paintover.models.taps import Site, Taps
from paintover.path.guidance import Guide
from paintover.path.predict import Condition, Path, Predict
from paintover.path.schedule import Step
from paintover.path.walk import Record

T = TypeVar("T", bound=Taps)


@dataclass(frozen=True, slots=True, eq=False)
class Beside(Generic[T]):
    """The guide of an edit whose rows look at the source's. Where the source was at each step is known, so it is asked anew.

    First the source's rows, at the latents that `source` recorded, with taps that record; then the edit's own, as `wanted`
    asks them, with taps that use what was recorded.

    looks_at: of a step and what a row of the edit is told: what the source's row is told that it looks at; None: at none.
    records:  taps for a row of the source that is told this; None: nothing is to be recorded, and the row is not asked.
    uses:     taps for a row of the edit that is told this, made of those that have recorded (None: none have).
    """

    wanted: Guide
    source: Record
    looks_at: Callable[[Step, Condition], Condition | None]
    records: Callable[[Step, Condition], T | None]
    uses: Callable[[Step, Condition, T | None], Taps | None]

    def noise(self, x_BCHW: Tensor, step: Step) -> Path:
        asking, answers = self.wanted.noise(x_BCHW, step), None
        while True:
            try:
                asked = asking.send(answers)  # type: ignore[arg-type]
            except StopIteration as end:
                return end.value
            beside = [self.looks_at(step, ask.condition) for ask in asked]
            recorded: dict[Condition, T] = {}
            for told in beside:
                if told is not None and told not in recorded and (taps := self.records(step, told)) is not None:
                    recorded[told] = taps
            if recorded:
                yield [Predict(self.source.x[step.i], step.t, told, taps) for told, taps in recorded.items()]
            answers = yield [
                replace(ask, taps=self.uses(step, ask.condition, recorded.get(told) if told is not None else None))
                for ask, told in zip(asked, beside, strict=True)
            ]


def share(fraction: float, steps: int, knob: str) -> int:
    """How many steps a fraction of them is. Raises KnobError where something is asked for that is less than one step."""
    count = round(fraction * steps)
    if fraction and not count:
        least = math.ceil(501 / steps) / 1000
        raise KnobError(f"{knob} {fraction:g} of {steps} steps is less than one; use 0, or {least:g} or more, or more steps")
    return count


def coarse(site: Site, side: int = 16) -> bool:
    """Whether the grid is one of side x side or fewer, and up to half as many pixels more for pictures that are not square.

    Stable Diffusion's maps of 16 x 16 are what the papers speak of; grids of one network differ by factors of 4.
    """
    return math.prod(site.size_HW) <= 1.5 * side**2


@dataclass(slots=True, eq=False)
class WordMap:
    """Where some of a caption's tokens are in the picture: the mean of their cross-attention maps, over sites and heads.

    Of coarse maps only (16 x 16 in Stable Diffusion), and of these the finest that were seen.
    """

    tokens: Sequence[int]
    sums: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def wants(self, site: Site) -> bool:
        return site.kind == "cross" and coarse(site)

    def add(self, site: Site, maps_HNL: Tensor) -> None:
        map_HW = maps_HNL.detach()[..., list(self.tokens)].sum(-1).mean(0).view(site.size_HW)
        self.sums[site.size_HW] = self.sums.get(site.size_HW, 0) + map_HW

    def mean_HW(self) -> Tensor | None:
        """Up to a factor; None where no map was seen."""
        return self.sums[max(self.sums, key=math.prod)] if self.sums else None
