"""The denoising loop. Every editor's path is this walk: down to a picture, or up to the noise it came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from paintover.path.guidance import Guide
from paintover.path.predict import Path
from paintover.path.report import Report
from paintover.path.schedule import Step


@dataclass(slots=True)
class Record:
    """What a walk went through, for another walk to borrow: for S steps, S guided noises and S + 1 latents.

    eps: eps[i] is the noise that step i used, all guidance done.
    x:   x[i] is what step i started from; x[-1] is where the walk ended.
    """

    eps: list[Tensor] = field(default_factory=list)
    x: list[Tensor] = field(default_factory=list)


After = Callable[[Step, Tensor], Tensor]  # what is done to the latents x_BCHW that a step has reached


def walk(x_BCHW: Tensor, steps: Sequence[Step], guide: Guide, record: Record | None = None, after: After | None = None) -> Path:
    """Walks `steps` from latents x_BCHW (B = 1) and returns the latents at their end; no steps return x as it is.

    guide says which noise each step follows (`guidance` and `mdp` make them); `after` may add noise to the latents that a
    step has reached, mix others into them, or mask them; `record` is filled as the walk goes.
    """
    if record is not None:
        record.x.append(x_BCHW)
    for n, step in enumerate(steps):
        eps = yield from guide.noise(x_BCHW, step)
        before, x_BCHW = x_BCHW, step.next(x_BCHW, eps)
        if after is not None:
            x_BCHW = after(step, x_BCHW)
        if record is not None:
            record.eps.append(eps)
            record.x.append(x_BCHW)
        yield Report(step, n, len(steps), before, eps, x_BCHW)
    return x_BCHW


def invert(x0_BCHW: Tensor, steps: Sequence[Step], guide: Guide, record: Record | None = None) -> Path:
    """DDIM inversion, and of a flow Euler's: the same steps walked from the clean latents up to the noise that leads there.

    `steps` are those of the walk back, noisiest first. Each noise is asked at the cleaner latents with the timestep of the
    step that will undo it, as prompt-to-prompt's inversion does; use guidance 1 (`plain`), or it will not lead back.
    """
    upward = [replace(step.inverse(), i=i) for i, step in enumerate(reversed(steps))]
    return walk(x0_BCHW, upward, guide, record)
