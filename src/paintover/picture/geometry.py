"""How a picture of any size meets the model's grid, and the way back: scale, reflect-pad, exact inverse. Nothing is cropped."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Float = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Geometry:
    """native (H, W) -> scaled to `scaled_HW` -> reflect-padded to `padded_HW`, the picture's corner lying at `offset_HW`."""

    native_HW: tuple[int, int]
    scaled_HW: tuple[int, int]
    padded_HW: tuple[int, int]
    offset_HW: tuple[int, int]

    @classmethod
    def fit(cls, native_HW: tuple[int, int], area: int, multiple: int) -> Geometry:
        """The working size of about `area` pixels that keeps the aspect, padded to a multiple of `multiple` each way.

        The long side is at most four times the square root of `area`, so that a 1 x 5000 strip does not become huge.
        Raises ValueError when a number is not positive.
        """
        height, width = native_HW
        if min(height, width, area, multiple) < 1:
            raise ValueError(f"sizes must be positive, not {height} x {width}, area {area}, multiple {multiple}")
        scale = min(math.sqrt(area / (height * width)), 4 * math.sqrt(area) / max(height, width))
        scaled = max(1, round(height * scale)), max(1, round(width * scale))
        padded = -(-scaled[0] // multiple) * multiple, -(-scaled[1] // multiple) * multiple
        offset = (padded[0] - scaled[0]) // 2, (padded[1] - scaled[1]) // 2
        return cls((int(height), int(width)), scaled, padded, offset)

    def apply(self, native_HWC: NDArray[Any]) -> Float:
        """A native picture (HWC; float32, or uint8 which is divided by 255) at the padded working size, float32."""
        if native_HWC.shape[:2] != self.native_HW:
            raise ValueError(f"this geometry is for {self.native_HW}, not for {native_HWC.shape[:2]}")
        return self.pad(resize(native_HWC, self.scaled_HW))

    def inverse(self, working_hwC: NDArray[Any]) -> Float:
        """A padded working picture (hwC) back at the native size, float32. Exact inverse of `apply` where nothing is scaled."""
        return resize(self.crop(working_hwC), self.native_HW)

    def pad(self, scaled_hwC: Float) -> Float:
        """The scaled picture with mirrored borders."""
        (top, left), (height, width) = self.offset_HW, self.scaled_HW
        around = ((top, self.padded_HW[0] - height - top), (left, self.padded_HW[1] - width - left), (0, 0))
        return np.pad(scaled_hwC, around, mode="reflect") if scaled_hwC.size else scaled_hwC

    def crop(self, working_hwC: NDArray[Any]) -> NDArray[Any]:
        """The padded working picture without its borders."""
        if working_hwC.shape[:2] != self.padded_HW:
            raise ValueError(f"this geometry's working size is {self.padded_HW}, not {working_hwC.shape[:2]}")
        (top, left), (height, width) = self.offset_HW, self.scaled_HW
        return working_hwC[top : top + height, left : left + width]

    def record(self) -> dict[str, Any]:
        """Plain JSON, from which `from_record` makes an equal Geometry."""
        return {key: list(value) for key, value in asdict(self).items()}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Geometry:
        """The Geometry whose `record` this is."""
        return cls(**{key: (int(value[0]), int(value[1])) for key, value in record.items()})


def resize(a_HWC: NDArray[Any], size_HW: tuple[int, int], how: Image.Resampling = Image.Resampling.LANCZOS) -> Float:
    """Antialiased resize of HWC float32 (or uint8, divided by 255), clipped to the range of its values so as not to ring."""
    scale = 1 / 255 if a_HWC.dtype == np.uint8 else 1.0
    if a_HWC.shape[:2] == tuple(size_HW):
        return np.multiply(a_HWC, scale, dtype=np.float32)
    out_HWC = np.empty((*size_HW, a_HWC.shape[2]), np.float32)
    for c in range(a_HWC.shape[2]):
        plane = np.ascontiguousarray(a_HWC[:, :, c], dtype=np.float32)
        # reducing_gap: a box filter takes the first, whole-numbered part of a strong reduction (fast; no visible difference).
        small = Image.fromarray(plane).resize((size_HW[1], size_HW[0]), how, reducing_gap=3.0)
        out_HWC[:, :, c] = np.clip(np.asarray(small), plane.min(), plane.max())
    if scale != 1.0:
        out_HWC *= np.float32(scale)
    return out_HWC
