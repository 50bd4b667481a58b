"""An edit that looks into the network while it sees the source: rows beside rows, and where in the picture words are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import torch
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


def most_pixels(side: int, coarsest_HW: tuple[int, int]) -> float:
    """Of the maps to look at: side x side, and up to half as many more for pictures that are not square.

    Stable Diffusion's maps of 16 x 16 are what the papers speak of; grids of one network differ by factors of 4. Where a
    network has none so coarse, those of its coarsest grid.
    """
    return max(1.5 * side**2, math.prod(coarsest_HW))


@dataclass(slots=True, eq=False)
class WordMap:
    """Where some of a caption's tokens are in the picture: the mean of their cross-attention maps, over sites, heads, steps.

    Of maps of `pixels` or fewer, and of these the finest that were seen. A call may be made again (memory ran out, a
    neighbour failed): what a site shows at a step is counted once.
    """

    tokens: Sequence[int]
    pixels: float
    before: dict[Site, Tensor] = field(default_factory=dict)  # sums over all steps but the last one seen
    now: dict[Site, Tensor] = field(default_factory=dict)
    i: int = -1

    def wants(self, site: Site) -> bool:
        return site.kind == "cross" and math.prod(site.size_HW) <= self.pixels

    def add(self, step: Step, site: Site, maps_HNL: Tensor) -> None:
        if step.i != self.i:
            self.before |= {site: map_HW + self.before.get(site, 0) for site, map_HW in self.now.items()}
            self.now, self.i = {}, step.i
        self.now[site] = maps_HNL.detach()[..., list(self.tokens)].sum(-1).mean(0).view(site.size_HW)

    def mean_HW(self) -> Tensor | None:
        """Up to a factor; None where no map was seen."""
        if not self.now:
            return None
        finest = max((site.size_HW for site in self.now), key=math.prod)
        maps = [map_HW for seen in (self.before, self.now) for site, map_HW in seen.items() if site.size_HW == finest]
        return torch.stack(maps).sum(0)
