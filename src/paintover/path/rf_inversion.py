"""RF-Inversion: a flow's way up and down, drawn towards where it should end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from paintover.path.flow import FlowStep
from paintover.path.guidance import Guide
from paintover.path.predict import Path
from paintover.path.schedule import Step


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A guide's velocity, drawn towards the straight way to `end` (Rout et al. 2024, equations 8 and 15):

        v + w (u - v),    u = (end - x) / (sigma_end - sigma).

    sigma_end: 1 draws a walk up to noise (w is the paper's gamma), 0 a walk down to a picture (w is its eta). weights: w of
    each step, by its index; where it is 1 the guide is not asked. mask_HW: outside of it w is 1; None: there is no outside.
    """

    guide: Guide
    end_BCHW: Tensor
    sigma_end: float
    weights: Sequence[float]
    mask_HW: Tensor | None = None

    def noise(self, x_BCHW: Tensor, step: Step) -> Path:
        assert isinstance(step, FlowStep), "drawn are the steps of a flow (as_flow)"
        w = self.weights[step.i]
        if w == 0 and self.mask_HW is None:
            return (yield from self.guide.noise(x_BCHW, step))
        straight_BCHW = (self.end_BCHW - x_BCHW) / (self.sigma_end - step.sigma_t)
        if w == 1:
            return straight_BCHW
        v_BCHW = yield from self.guide.noise(x_BCHW, step)
        free = 1 - w if self.mask_HW is None else (1 - w) * self.mask_HW
        return straight_BCHW + free * (v_BCHW - straight_BCHW)


def etas(eta: float, start: int, stop: int, steps: int, decay: float = 0.0) -> list[float]:
    """eta_i of each of `steps` steps: eta (1 - j / n)^decay at j = 0 .. n - 1 of the n steps from start to stop, else 0."""
    length = stop - start
    return [eta * (1 - (i - start) / length) ** decay if start <= i < stop else 0.0 for i in range(steps)]
