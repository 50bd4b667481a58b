"""Negative-prompt inversion: what guidance is held against is the picture's own caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from paintover.path.inversion.ddim import ddim
from paintover.path.inversion.told import Told
from paintover.path.schedule import Step
from paintover.path.source import Inverting


def negative_prompt(x0_BCHW: Tensor, steps: Sequence[Step], told: Told) -> Inverting:
    """Negative-prompt inversion (Miyake et al. 2023): null := c_source, what null-text optimisation nearly finds, for nothing.

    e(null) + g [e(c) - e(null)] is then e(c_source) for the source at any g, so that its guided walk is the unguided one of
    DDIM inversion, and the edit is guided from what the picture is to what is wanted. 2 S evaluations.
    """
    source = yield from ddim(x0_BCHW, steps, told)
    return replace(source, nulls=(told.source,))
