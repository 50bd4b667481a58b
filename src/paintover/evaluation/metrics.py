"""How far a picture is from the goal (methods.md H). Pictures are rgb_HWC float in 0..1, of the same size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Pixels = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]


def l1(a: Pixels, b: Pixels, where: Mask | None = None) -> float:
    """Mean absolute difference over pixels and channels, `where` the mask is true; nan if it is nowhere."""
    return _mean(np.abs(a.astype(np.float64) - b), where)


def l2(a: Pixels, b: Pixels, where: Mask | None = None) -> float:
    """Mean squared difference over pixels and channels, `where` the mask is true; nan if it is nowhere."""
    return _mean((a.astype(np.float64) - b) ** 2, where)


def psnr(mean_squared: float) -> float:
    """10 log10(1 / mean squared difference) in dB; inf for equal pictures, nan for nan."""
    return math.inf if mean_squared == 0 else -10 * math.log10(mean_squared)


def ssim(a: Pixels, b: Pixels, where: Mask | None = None) -> float:
    """Structural similarity (Wang et al. 2004): Gaussian window of 11 pixels, sigma 1.5, K1 = 0.01, K2 = 0.03.

    Mean over channels and positions, `where` the mask is true; nan if it is nowhere.
    """

    def blur(v: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(gaussian_filter(v, sigma=(1.5, 1.5, 0), radius=(5, 5, 0)))

    x, y = a.astype(np.float64), b.astype(np.float64)
    mu_a, mu_b = blur(x), blur(y)
    var_a, var_b, cov = blur(x * x) - mu_a**2, blur(y * y) - mu_b**2, blur(x * y) - mu_a * mu_b
    c1, c2 = 0.01**2, 0.03**2
    value = (2 * mu_a * mu_b + c1) * (2 * cov + c2) / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))
    return _mean(value, where)


def _mean(value: NDArray[np.float64], where: Mask | None) -> float:
    if where is not None:
        value = value[where]
    return float(value.mean()) if value.size else math.nan
