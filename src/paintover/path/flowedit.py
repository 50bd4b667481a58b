"""FlowEdit: from a picture straight to its edit, along the difference of two velocities; no inversion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paintover.path.beside import beside
from paintover.path.flow import FlowStep
from paintover.path.guidance import Guide
from paintover.path.predict import Path
from paintover.path.schedule import Step
from paintover.path.walk import walk

_AT_ONCE = 4  # noises whose velocities are asked together: between two such rounds it can be cancelled


@dataclass(frozen=True, slots=True, eq=False)
class Difference:
    """The guide of FlowEdit's walk over z_edit, which begins at the picture x0 (Kulikov et al. 2024, algorithm 1):

        z_src = (1 - sigma) x0 + sigma noise,    z_tar = z_edit + z_src - x0,
        v_edit = mean over n_avg noises of  v(z_tar, target) - v(z_src, source).

    draw: gives fresh noise at each call. mask_HW: where v_edit is let through; None: everywhere.
    """

    x0_BCHW: Tensor
    source: Guide
    target: Guide
    draw: Callable[[], Tensor]
    n_avg: int = 1
    mask_HW: Tensor | None = None

    def noise(self, x_BCHW: Tensor, step: Step) -> Path:
        total_BCHW = torch.zeros_like(x_BCHW)
        for n in range(0, self.n_avg, _AT_ONCE):
            asked: list[Path] = []
            for _ in range(n, min(n + _AT_ONCE, self.n_avg)):
                source_BCHW = step.noised(self.x0_BCHW, self.draw())
                target_BCHW = x_BCHW + (source_BCHW - self.x0_BCHW)
                asked += [self.target.noise(target_BCHW, step), self.source.noise(source_BCHW, step)]
            answers = yield from beside(asked)
            for target, source in zip(answers[::2], answers[1::2], strict=True):
                total_BCHW = total_BCHW + (target - source)
        v_BCHW = total_BCHW / self.n_avg
        return v_BCHW if self.mask_HW is None else v_BCHW * self.mask_HW


def flowedit(edit: Difference, steps: Sequence[FlowStep], n_min: int = 0) -> Path:
    """FlowEdit over `steps` (the last n_max of a walk); the last `n_min` of them are plain sampling of the target.

    That sampling begins at z_tar of the edit so far, where the difference's own next evaluation would have been made. Outside
    of the mask it is held to the picture, noised by the same noise.
    """
    first, last = steps[: len(steps) - n_min], steps[len(steps) - n_min :]
    x0_BCHW, mask_HW = edit.x0_BCHW, edit.mask_HW
    z_BCHW = yield from walk(x0_BCHW, first, edit)
    if not last:
        return z_BCHW
    noise_BCHW = edit.draw()

    def held(step: Step, x_BCHW: Tensor) -> Tensor:
        source_BCHW = step.inverse().noised(x0_BCHW, noise_BCHW)  # where the step ends is where its inverse begins
        return x_BCHW if mask_HW is None else source_BCHW + mask_HW * (x_BCHW - source_BCHW)

    z_BCHW = z_BCHW + (last[0].noised(x0_BCHW, noise_BCHW) - x0_BCHW)
    return (yield from walk(z_BCHW, last, edit.target, after=held))
