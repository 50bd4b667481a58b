"""The edit back at native size: what it did not touch is the original, bit for bit; tone and colour keep native detail."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from paintover.errors import RequestError
from paintover.picture import change, colour
from paintover.picture.geometry import Float, Geometry, resize
from paintover.picture.open import Picture

_STRIP = 64  # native rows worked on at a time


@dataclass(frozen=True, slots=True, eq=False)
class Closed:
    """A finished picture in the colour space of the opened file: `rgb_HWC` and `alpha_HW` uint8 (or None).

    `change_HW` is float32 0..1: how much of each pixel is the edit's; 0 means the original, bit for bit. `record` is JSON.
    """

    rgb_HWC: NDArray[np.uint8]
    alpha_HW: NDArray[np.uint8] | None
    change_HW: Float
    record: dict[str, Any] = field(default_factory=dict)


def close(
    picture: Picture,
    edited_hwC: Float,
    source_hwC: Float,
    geometry: Geometry,
    mask_HW: Float | None = None,
    preserve: bool = True,
    within_hw: Float | None = None,
) -> Closed:
    """Carries an edit made at the padded working size back onto the picture.

    `edited_hwC` and `source_hwC`, float32 0..1, are the model's output and the codec's reconstruction of the unedited
    source, so that the codec's error is no change. Three layers, mixed at each pixel: a colour map of the whole picture, a
    colour map of the neighbourhood (both applied to native pixels, so native detail survives), and, where no colour map
    explains the change, the edit itself scaled up. `mask_HW` (native size, float32 0..1) says where changes are allowed and
    takes the place of the estimated mask. `within_hw` (padded working size, 0..1) says where the editor itself worked: neither
    mask reaches beyond it. `preserve=False` hands out the model's output scaled up.
    Raises RequestError when the mask's size is not the picture's, ValueError when a working size is not the geometry's.
    """
    edited, source = (np.clip(np.nan_to_num(geometry.crop(a)), 0, 1).astype(np.float32) for a in (edited_hwC, source_hwC))
    if mask_HW is not None and mask_HW.shape != picture.size_HW:
        mask_size, size = (" x ".join(map(str, shape[::-1])) for shape in (mask_HW.shape, picture.size_HW))
        raise RequestError(f"the mask is {mask_size} but the picture is {size}; give a mask of that size")
    if not preserve:
        return _raw(picture, edited, source, geometry)
    layers = _layers(edited, source, estimate_mask=mask_HW is None)
    if within_hw is not None:
        within = np.clip(geometry.crop(within_hw), 0, 1).astype(np.float32)
        layers = replace(layers, mask_hw=layers.mask_hw * within, whole=layers.whole and bool(within.all()))
        if mask_HW is not None:
            mask_HW = mask_HW * resize(within[:, :, None], geometry.native_HW, Image.Resampling.NEAREST)[:, :, 0]
    change_HW, rgb_HWC = _compose(picture, layers, mask_HW)
    changed = change_HW > 0
    fraction = float(changed.mean())
    mode = "none" if fraction == 0 else "mask" if mask_HW is not None else "whole" if layers.whole else "local"
    outside = 1 - (layers.mask_hw if mask_HW is None else resize(mask_HW[:, :, None], geometry.scaled_HW)[:, :, 0])
    moved = change.drift(source, edited, outside if float(outside.mean()) >= 0.1 else np.ones_like(outside))
    record = {"mode": mode, "changed_fraction": round(fraction, 6), "drift_px": _native(moved, geometry)}
    return Closed(rgb_HWC, picture.alpha_HW, change_HW, record | {"noise": round(layers.noise, 4)})


def changed(edited_hwC: Float, source_hwC: Float) -> Float:
    """mask_hw, 0..1: where the edit changed the picture, beyond the model's noise, as `close` estimates it without a mask."""
    edited, source = (np.clip(np.nan_to_num(a), 0, 1).astype(np.float32) for a in (edited_hwC, source_hwC))
    return _layers(edited, source, estimate_mask=True).mask_hw


@dataclass(frozen=True, slots=True)
class _Layers:
    """The change at the working size as one affine map per pixel: change = slope s + offset (hw33, hw3), and its mask."""

    slope_hw33: Float
    offset_hw3: Float
    mask_hw: Float
    whole: bool
    noise: float


def _layers(edited: Float, source: Float, *, estimate_mask: bool) -> _Layers:
    height, width = source.shape[:2]
    delta = edited - source
    everywhere = change.tone_everywhere(source, delta)
    rest = delta - (source @ everywhere[:3] + everywhere[3])
    noise = change.noise_of(rest)
    blurred = change.blurred_everywhere(source, edited - rest, edited)
    whole = bool(everywhere.any()) or blurred is not None
    mask = np.ones((height, width), np.float32)
    if estimate_mask and not whole:
        mask = change.changed_places(rest, noise)
        whole = bool(mask.min() == 1)
        noise = noise / 2 if whole else noise  # part of it was the edit, as in a poster or a mosaic
    eye = np.eye(3, dtype=np.float32)
    if blurred is not None:  # nothing of the native pixels stays: the change is the blurred picture minus them
        missed = change.smooth(edited - blurred, 1.5)
        offset = blurred + missed * change.above_noise(missed, noise)[..., None]
        return _Layers(np.broadcast_to(-eye, (height, width, 3, 3)), offset, mask, whole, noise)
    # A weak model's output is a little blurred. Fitted to smoothed pictures, that does not weaken the native detail.
    soft_source, soft_rest = change.smooth(source, 0.8), change.smooth(rest, 0.8)
    slope, offset = change.tone_locally(soft_source, soft_rest, max(1.8, (height * width) ** 0.5 / 60), noise)
    fitted = np.einsum("hwoi,hwi->hwo", slope, soft_source) + offset
    allowed = 0.012 + 0.5 * noise + 0.05 * change.rms(change.smooth(delta, 1.0))
    explained = np.exp(-((change.rms(change.smooth(soft_rest - fitted, 0.5)) / allowed) ** 3))[..., None]
    heard = change.above_noise(fitted, noise)[..., None]
    slope, offset = slope * heard[..., None], offset * heard
    slope = (everywhere[:3].T + slope) * explained[..., None] - eye * (1 - explained[..., None])
    offset = (everywhere[3] + offset) * explained + edited * (1 - explained)
    return _Layers(slope.astype(np.float32), offset.astype(np.float32), mask, whole, noise)


def _compose(picture: Picture, layers: _Layers, mask_HW: Float | None) -> tuple[Float, NDArray[np.uint8]]:
    """(the mask at native size, the native pixels with the change where the mask allows it)."""
    (height, width), (low_height, low_width) = picture.size_HW, layers.mask_hw.shape
    planes_hwK = np.concatenate(
        [layers.slope_hw33.reshape(low_height, low_width, 9), layers.offset_hw3, layers.mask_hw[..., None]], axis=2
    )
    wide_hKW = np.stack([_stretch(planes_hwK[:, :, k], width) for k in range(13)], axis=1)
    rows_Hh = _stretch(np.eye(low_height, dtype=np.float32), height, axis=0)
    original = picture.rgb_HWC
    out = (original if picture.native_rgb_HWC is None else picture.native_rgb_HWC).copy()
    change_HW = np.zeros((height, width), np.float32) if mask_HW is None else np.clip(mask_HW, 0, 1).astype(np.float32)
    for top in range(0, height, _STRIP):
        rows = slice(top, min(top + _STRIP, height))
        used = np.flatnonzero(rows_Hh[rows].any(axis=0))
        near = slice(used[0], used[-1] + 1)
        if mask_HW is None:
            mask = np.clip(rows_Hh[rows, near] @ wide_hKW[near, 12], 0, 1)
            mask[mask < 1 / 255] = 0
            change_HW[rows] = mask
        mask = change_HW[rows]
        columns = np.flatnonzero(mask.any(axis=0))
        if not len(columns):
            continue
        across = slice(columns[0], columns[-1] + 1)
        mask = mask[:, across]
        fields = np.tensordot(rows_Hh[rows, near], wide_hKW[near, :12, across], axes=1)
        pixels = [np.multiply(original[rows, across, c], np.float32(1 / 255), dtype=np.float32) for c in range(3)]
        edited = np.empty((*mask.shape, 3), np.uint8)
        for c in range(3):
            moved = fields[:, 9 + c]
            for i in range(3):
                moved += fields[:, 3 * c + i] * pixels[i]
            moved *= mask
            moved += pixels[c]
            edited[..., c] = np.clip(moved * 255 + 0.5, 0, 255).astype(np.uint8)
        _put(out[rows, across], edited, original[rows, across], mask > 0, picture)
    return change_HW, out


def _put(out: Any, edited: Any, original: Any, allowed: Any, picture: Picture) -> None:
    """Writes the edited pixels where they are allowed, in the file's own colours.

    For a file with its own profile the difference is added to its own pixels, so that colours outside sRGB survive.
    """
    if picture.native_rgb_HWC is not None and picture.metadata.icc is not None:
        icc = picture.metadata.icc
        difference = colour.from_srgb(edited, icc).astype(np.int16) - colour.from_srgb(original, icc)
        edited = np.clip(out + difference, 0, 255).astype(np.uint8)
    if allowed.all():
        out[:] = edited
    else:
        np.copyto(out, edited, where=allowed[..., None])


def _raw(picture: Picture, edited: Float, source: Float, geometry: Geometry) -> Closed:
    rgb_HWC = (np.clip(resize(edited, geometry.native_HW), 0, 1) * 255 + 0.5).astype(np.uint8)
    if picture.native_rgb_HWC is not None and picture.metadata.icc is not None:
        rgb_HWC = colour.from_srgb(rgb_HWC, picture.metadata.icc)
    moved = change.drift(source, edited, np.ones(edited.shape[:2], np.float32))
    record = {"mode": "raw", "changed_fraction": 1.0, "drift_px": _native(moved, geometry)}
    return Closed(rgb_HWC, picture.alpha_HW, np.ones(geometry.native_HW, np.float32), record)


def _native(moved: tuple[float, float] | None, geometry: Geometry) -> float | None:
    """A shift in working pixels as a distance in native ones."""
    if moved is None:
        return None
    per_pixel = [native / scaled for native, scaled in zip(geometry.native_HW, geometry.scaled_HW, strict=True)]
    return round(float(np.hypot(moved[0] * per_pixel[0], moved[1] * per_pixel[1])), 3)


def _stretch(plane_hw: Float, size: int, axis: int = 1) -> Float:
    """One axis of a plane resized, with a smooth kernel that does not ring."""
    height, width = plane_hw.shape
    to = (size, height) if axis == 1 else (width, size)
    return np.asarray(Image.fromarray(np.ascontiguousarray(plane_hw)).resize(to, Image.Resampling.BICUBIC))
