"""Pictures of known quality, in place of pictures that people have judged.

The published prior is told the score that an aesthetic predictor gives a picture. The built-in world has no such predictor, and
needs none: pictures are damaged by known amounts, and how little that was, 10 (not at all) to 0, stands for the score.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFilter

from paintover.models.media import Pixels

UNDAMAGED = 0.35  # share of pictures


def damaged(rgb_HWC: Pixels, rng: np.random.Generator) -> tuple[Pixels, float]:
    """The picture with one kind of damage, and its score."""
    if rng.random() < UNDAMAGED:
        return rgb_HWC, 10.0
    amount, kind = float(rng.random()), int(rng.integers(4))
    return damage(rgb_HWC, ("blur", "noise", "grey", "jpeg")[kind], amount, rng), 10.0 * (1 - amount)


def damage(rgb_HWC: Pixels, kind: str, amount: float, rng: np.random.Generator) -> Pixels:
    """kind: blur, noise, grey (low contrast), jpeg. amount: 0, nothing to be seen, to 1."""
    if kind == "blur":
        radius = 0.05 * amount * max(rgb_HWC.shape)
        return np.asarray(Image.fromarray(rgb_HWC).filter(ImageFilter.GaussianBlur(radius)))
    if kind == "jpeg":
        with io.BytesIO() as file:
            Image.fromarray(rgb_HWC).save(file, "JPEG", quality=round(95 - 93 * amount))
            return np.asarray(Image.open(file).convert("RGB"))
    values_HWC = rgb_HWC.astype(np.float32)
    if kind == "noise":
        less_HWC = values_HWC + rng.normal(0, 80 * amount, rgb_HWC.shape)
    else:  # low contrast
        less_HWC = values_HWC.mean() + (1 - 0.9 * amount) * (values_HWC - values_HWC.mean())
    return np.clip(np.rint(less_HWC), 0, 255).astype(np.uint8)
