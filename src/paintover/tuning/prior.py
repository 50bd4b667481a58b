"""What a model knew before it was tuned: pictures of its own making, to hold it to them (DreamBooth's prior preservation)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from paintover.path.beside import beside
from paintover.path.guidance import Guide
from paintover.path.report import Progress
from paintover.path.schedule import Step
from paintover.path.start import noise
from paintover.path.walk import walk
from paintover.tuning.unfinished import Unfinished

_SEED = 1 << 62  # of the first one's noise: beyond the seeds that people give their edits
_TOGETHER = 8  # walked side by side: 16 rows with guidance, a full call of the denoiser
_CARRIED = "class_BCHW"


def class_pictures(
    count: int,
    shape: tuple[int, int, int, int],
    steps: Sequence[Step],
    guide: Guide,
    unfinished: Unfinished,
    device: torch.device,
) -> Generator[Any, Any, list[Tensor]]:
    """Part of a preparation: `count` latents of `shape` (1, C, H, W) that the model makes of noise, walking `steps` by `guide`.

    It asks the engine, as every walk does, and reports after every few of them. What an interrupted preparation has made is
    found in `unfinished` and not made again, and stays there for the stages after this one.
    """
    found = unfinished.carried().get(_CARRIED)
    made = [] if found is None else [one.to(device) for one in found.split(1)]
    what = {"what": "class pictures"}
    try:
        while len(made) < count:
            numbers = range(len(made), min(len(made) + _TOGETHER, count))
            made += yield from beside([walk(noise(_SEED + n, shape, device), steps, guide) for n in numbers])
            unfinished.carry({_CARRIED: torch.cat(made)})
            if unfinished.due():
                unfinished.write({}, what)
            yield Progress(len(made) - 1, count, "class pictures")
    except GeneratorExit:  # cancelled
        unfinished.write({}, what)
        raise
    return made


def square(shape: Sequence[int], multiple: int) -> tuple[int, int, int, int]:
    """(1, C, N, N) of about as many pixels as a (1, C, H, W), N being a multiple of `multiple`."""
    side = max(1, round((shape[-2] * shape[-1]) ** 0.5 / multiple)) * multiple
    return 1, shape[1], side, side
