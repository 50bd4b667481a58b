"""Where and how an edit changed a picture, estimated at the working size from a noisy model's output.

Every question is answered against the codec's reconstruction of the source, which is what "no change" looks like: which
colours moved everywhere (a tone edit), which places changed otherwise (an object edit), how far the output slid (drift).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from paintover.picture.geometry import resize

Float = NDArray[np.float32]

_TONE, _MOST = 0.028, 0.4  # a tone edit of the whole picture changes so much at least, in such a part of it at least
_BLUR = 0.5  # detail left (as a fraction) below which the whole picture counts as blurred
_STRONG, _WEAK = 0.115, 0.055  # change that starts a changed place, and change that still belongs to one
_NOISE = 0.03  # more than this in the median place is no noise, it is a change
_WHOLE = 0.7  # changes that cover more of the picture than this cover all of it


def smooth(a: Float, sigma: float) -> Float:
    """Gaussian blur over the two spatial axes; borders mirrored."""
    return ndimage.gaussian_filter(a, (sigma, sigma) + (0,) * (a.ndim - 2), mode="reflect", truncate=3.0)


def rms(a_hwC: Float) -> Float:
    """Root mean square over the channels, hw."""
    return np.sqrt((a_hwC**2).mean(axis=-1))


def tone_everywhere(source_hwC: Float, change_hwC: Float) -> Float:
    """The one colour map, change = [r g b 1] @ M, that most of the picture obeys: M is (4, 3), zero if it moves little.

    Robust least squares (Welsch weights with a shrinking scale): a changed object is an outlier to it.
    """
    x = np.concatenate([source_hwC.reshape(-1, 3), np.ones((source_hwC[..., 0].size, 1))], axis=1).astype(np.float64)
    y = change_hwC.reshape(-1, 3).astype(np.float64)
    weight = np.ones(len(x))
    ridge = np.eye(4) * (1e-5 * len(x))
    for _ in range(12):
        weighted = x * weight[:, None]
        matrix = np.linalg.solve(weighted.T @ x + ridge * weight.mean(), weighted.T @ y)
        error = np.sqrt(((y - x @ matrix) ** 2).mean(axis=1))
        scale = max(0.03, 1.5 * float(np.median(error)))
        weight = np.exp(-((error / scale) ** 2)) + 1e-6
    # A recoloured object may be the only thing of its colour and so bend the map, but most other colours then stay.
    moved = np.sqrt(((x @ matrix) ** 2).mean(axis=1)) > _TONE
    return matrix.astype(np.float32) if moved.mean() > _MOST else np.zeros((4, 3), np.float32)


def blurred_everywhere(source_hwC: Float, toned_hwC: Float, edited_hwC: Float) -> Float | None:
    """The source, or the source after its tone edit, blurred as the edit is; None unless most fine detail is gone.

    "Gone" means beyond what the tone edit takes away. Of some widths of the blur, the one that comes nearest to the edit.
    Where only a few things have detail, it is things that went or softened, not the picture that was blurred.
    """
    before, after = (a - smooth(a, 1.0) for a in (toned_hwC, edited_hwC))
    energy = float((before**2).mean())
    detailed = smooth((before**2).mean(axis=-1), 2.0) > 0.01**2
    if energy < 0.01**2 or detailed.mean() < _MOST or float((before * after).mean()) > _BLUR * energy:
        return None
    widths = (0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6)
    blurred = [smooth(a, width) for a in (source_hwC, toned_hwC) for width in widths]
    return min(blurred, key=lambda a: float(((a - edited_hwC) ** 2).mean()))


def tone_locally(source_hwC: Float, change_hwC: Float, sigma: float, noise: float) -> tuple[Float, Float]:
    """The colour map that each neighbourhood obeys: change = A s + b with A (h, w, 3, 3) [out, in] and b (h, w, 3).

    A guided filter with a colour guide and Gaussian windows (He, Sun, Tang 2013, equations 19 and 20), the guide being the
    source. The ridge grows with the noise, so that a flat or noisy neighbourhood gets a plain offset.
    """
    full_HW, step = source_hwC.shape[:2], max(1, round((source_hwC.shape[0] * source_hwC.shape[1]) ** 0.5 / 192))
    if step > 1:  # the map is smooth: a coarse grid holds it
        size_HW = (max(1, full_HW[0] // step), max(1, full_HW[1] // step))
        source_hwC, change_hwC, sigma = resize(source_hwC, size_HW), resize(change_hwC, size_HW), sigma / step
    mean_s, mean_c = smooth(source_hwC, sigma), smooth(change_hwC, sigma)
    height, width = source_hwC.shape[:2]
    covariance = smooth((source_hwC[..., :, None] * source_hwC[..., None, :]).reshape(height, width, 9), sigma)
    covariance = covariance.reshape(height, width, 3, 3) - mean_s[..., :, None] * mean_s[..., None, :]
    cross = smooth((change_hwC[..., :, None] * source_hwC[..., None, :]).reshape(height, width, 9), sigma)
    cross = cross.reshape(height, width, 3, 3) - mean_c[..., :, None] * mean_s[..., None, :]
    ridge = np.eye(3, dtype=np.float32) * np.float32(0.02**2 + noise**2)
    slope = np.linalg.solve(covariance + ridge, cross.swapaxes(-1, -2)).swapaxes(-1, -2)
    offset = mean_c - np.einsum("hwoi,hwi->hwo", slope, mean_s)
    slope, offset = smooth(slope.reshape(height, width, 9), sigma), smooth(offset, sigma)
    return resize(slope, full_HW).reshape(*full_HW, 3, 3), resize(offset, full_HW)


def above_noise(change_hwC: Float, noise: float) -> Float:
    """How far to believe a smooth change: 0 (hw) where it is no larger than the noise, up to 1 where it stands out of it.

    Over a wide neighbourhood a little is enough (a vignette begins softly); a small place must stand out more.
    """
    size, wide = rms(change_hwC), max(2.0, (change_hwC.shape[0] * change_hwC.shape[1]) ** 0.5 / 12)
    believed = (
        np.maximum(smooth(size, wide) / noise - 0.8, (smooth(size, 1.0) / noise - 2.0) / 2) if noise > 1e-4 else size * 0 + 1
    )
    believed = np.clip(believed, 0, 1)
    return believed * believed * (3 - 2 * believed)


def changed_places(change_hwC: Float, noise: float) -> Float:
    """A soft mask (hw, 0..1) of the places where the change stands out of the model's noise; 0 elsewhere.

    Hysteresis: a place is what is connected, above the weak level, to something above the strong level. Holes are filled,
    specks dropped; the border lies outside the change and falls off smoothly.
    """
    size = rms(smooth(change_hwC, 0.7))
    weak, strong = max(_WEAK, 2.2 * noise), max(_STRONG, 3.5 * noise)
    labels, count = ndimage.label(ndimage.binary_closing(size > weak, iterations=1) | (size > weak), np.ones((3, 3)))
    if count == 0:
        return np.zeros_like(size)
    index = np.arange(1, count + 1)
    peak = ndimage.maximum(size, labels, index)
    area = ndimage.sum_labels(size > weak, labels, index)
    kept = np.concatenate([[False], (peak > strong) & (area >= 5)])[labels]
    kept = ndimage.binary_fill_holes(kept)
    if kept.mean() > _WHOLE or float((smooth(size, 3.0) > 1.2 * _NOISE).mean()) > _WHOLE:
        return np.ones_like(size)
    distance = ndimage.distance_transform_edt(~kept)
    ramp = np.clip(1 - (distance - 1) / 2.5, 0, 1)
    return (ramp * ramp * (3 - 2 * ramp)).astype(np.float32) if kept.any() else np.zeros_like(size)


def noise_of(change_hwC: Float) -> float:
    """The model's noise (rms): what it did in the median place, but no more than a usable model does."""
    return min(_NOISE, float(np.median(rms(smooth(change_hwC, 0.7)))))


def drift(source_hwC: Float, edited_hwC: Float, weight_hw: Float) -> tuple[float, float] | None:
    """How far the edit slid against the source, (down, right) in working pixels, by phase correlation; None if unmeasurable.

    `weight_hw` is 0 where the edit is wanted. Below a pixel: the centre of a parabola through the peak.
    """
    height, width = weight_hw.shape
    if min(height, width) < 8 or float(weight_hw.mean()) < 0.1:
        return None
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1]) * weight_hw
    spectra = []
    for a in (source_hwC, edited_hwC):
        luma = a @ np.array([0.299, 0.587, 0.114], np.float32)
        luma = luma - (luma * window).sum() / window.sum()
        spectra.append(np.fft.fft2(luma * window))
    cross = spectra[1] * np.conj(spectra[0])
    if float(np.abs(cross).max()) < 1e-6:
        return None
    # Low-passed phase: the finest frequencies hold the model's noise and not the picture.
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    surface = np.fft.ifft2(cross / (np.abs(cross) + 1e-9) * np.exp(-(fy**2 + fx**2) / (2 * 0.15**2))).real
    y, x = np.unravel_index(int(surface.argmax()), surface.shape)
    down = y + _parabola(surface[(y - 1) % height, x], surface[y, x], surface[(y + 1) % height, x])
    right = x + _parabola(surface[y, (x - 1) % width], surface[y, x], surface[y, (x + 1) % width])
    return (float((down + height / 2) % height - height / 2), float((right + width / 2) % width - width / 2))


def _parabola(before: float, peak: float, after: float) -> float:
    bend = before - 2 * peak + after
    return float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5)) if bend < -1e-12 else 0.0
