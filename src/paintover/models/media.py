"""The media encoder: pictures, sounds and words as vectors of one space, near each other where they mean the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.uint8]  # rgb_HWC of any size
Wave = NDArray[np.float32]  # mono, in -1..1, at the encoder's rate


class MediaEncoder(Protocol):
    """Every answer is media_BE, float32, each row of length 1, without gradients.

    width: E. rate: of the sounds it hears, in Hz. seconds: it hears so much of each, spread over its length.
    """

    width: int
    rate: int
    seconds: float

    def see(self, pictures: Sequence[Pixels]) -> Tensor:
        """B pictures, the whole of each."""

    def hear(self, waves: Sequence[Wave]) -> Tensor:
        """B sounds. One without any sample is silence."""

    def read(self, texts: Sequence[str]) -> Tensor:
        """B texts. Raises ModelError where the encoder reads none (ImageBind's image and audio branches)."""
