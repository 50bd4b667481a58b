"""What the tensors that a tuning learns are called. Needs no torch: editors say these names, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

UNET = "unet."  # `unet.<parameter>`, and of a LoRA `unet.<module>.lora_A.weight`
UPSCALER = "upscaler."  # of a cascade's second stage: `upscaler.unet.<parameter>`
WORDS = "words."  # `words.<word>`
TARGET = "target."  # Imagic's caption: `target.tokens_BLD`, `target.pooled_BD`
T = TypeVar("T")


def below(named: Mapping[str, T], prefix: str) -> dict[str, T]:
    """Those whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): one for name, one in named.items() if name.startswith(prefix)}
