"""Looks: changes of tone and weather that touch the whole picture, each an exact operation on float RGB in 0..1.

A look takes and returns rgb_HWC float32 (linear arithmetic on sRGB values, clipped to 0..1). They are the truth that the
built-in model is trained and measured against, on composed scenes and on real photographs alike.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def _luma(x: Pixels) -> Pixels:
    return np.asarray(x @ LUMA, np.float32)[..., None]


def _gain(red: float, green: float, blue: float) -> Callable[[Pixels], Pixels]:
    gains = np.array([red, green, blue], np.float32)
    return lambda x: x * gains


def _night(x: Pixels) -> Pixels:
    grey = _luma(x)
    return (0.55 * x + 0.45 * grey) ** np.float32(1.3) * np.array([0.30, 0.36, 0.55], np.float32)


def _dusk(x: Pixels) -> Pixels:
    height = x.shape[0]
    glow = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]  # violet above, orange below
    tint = (1 - glow) * np.array([0.62, 0.45, 0.62], np.float32) + glow * np.array([0.88, 0.55, 0.36], np.float32)
    return (0.7 * x + 0.3 * _luma(x)) * tint + np.array([0.06, 0.02, 0.04], np.float32)


LOOKS: dict[str, Callable[[Pixels], Pixels]] = {
    "brighter": lambda x: 1 - (1 - x) ** 1.9,
    "darker": lambda x: 0.5 * x,
    "contrast": lambda x: 0.5 + 1.8 * (x - 0.5),
    "saturated": lambda x: _luma(x) + 2.0 * (x - _luma(x)),
    "black-and-white": lambda x: np.repeat(_luma(x), 3, axis=2),
    "sepia": lambda x: _luma(x) * np.array([1.07, 0.86, 0.62], np.float32) + np.array([0.04, 0.02, 0.0], np.float32),
    "warmer": _gain(1.22, 1.0, 0.68),
    "cooler": _gain(0.72, 0.97, 1.25),
    "dusk": _dusk,
    "night": _night,
    "fog": lambda x: 0.38 * x + 0.62 * np.array([0.80, 0.82, 0.84], np.float32),
}


def _rain(x: Pixels) -> Pixels:
    """Grey and dim, with slanting streaks: bright where a fixed pattern says so, the same at any resolution."""
    height, width = x.shape[:2]
    v, u = np.mgrid[0:height, 0:width].astype(np.float32)
    u, v = (u + 0.5) / width, (v + 0.5) / height
    column = 26 * (u + 0.22 * v)
    shift = np.sin(12.9898 * np.floor(column)) * 43758.5453
    dash = (3.1 * v + shift - np.floor(shift)) % 1
    streak = ((column % 1 < 0.16) & (dash < 0.4))[..., None].astype(np.float32)
    wet = (0.45 * x + 0.35 * _luma(x)) * np.array([0.82, 0.88, 0.98], np.float32) + np.float32(0.05)
    return wet + 0.3 * streak * (1 - wet)


def _firelight(x: Pixels) -> Pixels:
    """Dark, but for an orange light that comes from below."""
    height = x.shape[0]
    near = np.linspace(0.16, 0.95, height, dtype=np.float32)[:, None, None]
    return (0.75 * x + 0.25 * _luma(x)) * near * np.array([1.05, 0.62, 0.3], np.float32)


# Looks that are asked for by their sounds: see `referring`.
MOODS: dict[str, Callable[[Pixels], Pixels]] = {"rain": _rain, "firelight": _firelight}


def apply(name: str, x: Pixels) -> Pixels:
    """The look `name` on rgb_HWC in 0..1; KeyError for a look the world does not know."""
    return np.clip((LOOKS[name] if name in LOOKS else MOODS[name])(x), 0, 1).astype(np.float32)
