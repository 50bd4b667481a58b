"""SDXL's refiner: a network that was trained on the last, least noisy part of the way alone, and finishes what others began."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from paintover.models.denoiser import Denoiser
from paintover.models.text_sdxl import SDXLText

GOOD, BAD = 6.0, 2.5  # the aesthetic scores that are asked for and steered away from, as in diffusers


@dataclass(frozen=True, eq=False)
class Refiner:
    """Its network, and the encoder of its words (the bundle's second one). It walks the same latents as the bundle does."""

    denoiser: Denoiser
    text: SDXLText
    scheduler_config: Mapping[str, Any]

    @staticmethod
    def told(pooled_BD: Tensor, score: float) -> Tensor:
        """The text's vector with the aesthetic score behind it: the pooled_BD of a condition for this network."""
        return functional.pad(pooled_BD, (0, 1), value=score)
