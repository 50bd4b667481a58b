"""One edited picture against the truth: errors by method and region."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paintover.evaluation.metrics import l1, l2, ssim
from paintover.models.bundle import Bundle
from paintover.orders.work import encode
from paintover.picture import Geometry

Picture = NDArray[np.uint8]
Errors = dict[str, float]


def errors(picture: Picture, target: Picture, regions: Mapping[str, NDArray[np.bool_] | None]) -> Errors:
    """l1, l2 and ssim to the target in each region: "l1_inside" and so on; nan where the region is empty."""
    return {
        f"{name}_{region}": measure(picture / 255, target / 255, mask)
        for region, mask in regions.items()
        for name, measure in (("l1", l1), ("l2", l2), ("ssim", ssim))
    }


def untouched(edited: Picture, source: Picture, outside: NDArray[np.bool_]) -> float:
    """Share of the pixels outside the true change that are the source's, bit for bit; nan where there is no outside."""
    same = (edited == source).all(axis=2)[outside]
    return float(same.mean()) if same.size else math.nan


def through_codec(picture: Picture, bundle: Bundle) -> Picture:
    """The picture fitted to the model's grid, encoded, decoded and brought back."""
    height, width = picture.shape[:2]
    geometry = Geometry.fit((height, width), bundle.size**2, bundle.multiple)
    return as_uint8(geometry.inverse(encode(bundle, geometry.apply(picture))["reconstruction_hwC"].numpy()))


def as_uint8(rgb: NDArray[np.floating[Any]]) -> Picture:
    """Float RGB in 0..1, rounded."""
    return np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)
