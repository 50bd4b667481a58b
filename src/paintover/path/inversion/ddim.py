"""DDIM inversion, and the two things one can do with it: walk back from its noise, or replay what it went through."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from paintover.path.guidance import plain
from paintover.path.inversion.told import Told
from paintover.path.schedule import Step
from paintover.path.source import Inverting, Source
from paintover.path.walk import Record, invert, walk


def ddim(x0_BCHW: Tensor, steps: Sequence[Step], told: Told) -> Inverting:
    """Up to x_T by DDIM inversion (Song et al. 2021), and down again by the same steps, both told the caption, unguided.

    2 S evaluations. It ends near x0, nearer with more steps: each step's noise is asked at latents that are one step off.
    """
    x_T = yield from invert(x0_BCHW, steps, plain(told.source))
    record = Record()
    yield from walk(x_T, steps, plain(told.source), record)
    return Source(record)


def direct(x0_BCHW: Tensor, steps: Sequence[Step], told: Told) -> Inverting:
    """Direct Inversion (Ju et al. 2023): the source branch is held to z*, the latents that the inversion went through.

    The paper walks the source branch again and adds z*_t - z_t at every step; the noise that leads from z*_t straight to
    z*_(t-1) is the one that the inversion asked for, so nothing need be walked again. S evaluations, and it ends at x0.
    """
    up = Record()
    yield from invert(x0_BCHW, steps, plain(told.source), up)
    return Source(Record(eps=up.eps[::-1], x=up.x[::-1]))
