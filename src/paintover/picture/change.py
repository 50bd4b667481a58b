"""Where and how an edit changed a picture, estimated at the working size from a noisy model's output.

Every question is answered against the codec's reconstruction of the source, which is what "no change" looks like: which
colours moved everywhere (a tone edit), which places changed otherwise (an object edit), how far the output slid (drift).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Float = NDArray[np.float32]

_TONE = 0.028  # root mean square colour change that a tone edit of the whole picture reaches at least
_BLUR = 0.5  # detail left (as a fraction) below which the whole picture counts as blurred
_STRONG, _WEAK = 0.11, 0.055  # change that starts a changed place, and change that still belongs to one
_NOISE = 0.03  # more than this in the median place is no noise, it is a change
_WHOLE = 0.6  # changes that cover more of the picture than this cover all of it


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
    ridge = np.diag([1.0, 1.0, 1.0, 1e-3]) * (1e-3 * len(x))
    for _ in range(12):
        weighted = x * weight[:, None]
        matrix = np.linalg.solve(weighted.T @ x + ridge * weight.mean(), weighted.T @ y)
        error = np.sqrt(((y - x @ matrix) ** 2).mean(axis=1))
        scale = max(0.03, 1.5 * float(np.median(error)))
        weight = np.exp(-((error / scale) ** 2)) + 1e-6
    size = float(np.sqrt(((x @ matrix) ** 2).mean()))
    return matrix.astype(np.float32) if size >= _TONE else np.zeros((4, 3), np.float32)


def blurred_everywhere(toned_hwC: Float, edited_hwC: Float) -> bool:
    """Whether most of the fine detail of the whole picture is gone, beyond what its tone edit (`toned_hwC`) takes away."""
    before, after = (a - smooth(a, 1.0) for a in (toned_hwC, edited_hwC))
    energy = float((before**2).mean())
    return energy > 0.01**2 and float((before * after).mean()) < _BLUR * energy


def tone_locally(source_hwC: Float, change_hwC: Float, sigma: float, noise: float) -> tuple[Float, Float]:
    """The colour map that each neighbourhood obeys: change = A s + b with A (h, w, 3, 3) [out, in] and b (h, w, 3).

    A guided filter with a colour guide and Gaussian windows (He, Sun, Tang 2013, equations 19 and 20), the guide being the
    source. The ridge grows with the noise, so that a flat or noisy neighbourhood gets a plain offset.
    """
    mean_s, mean_c = smooth(source_hwC, sigma), smooth(change_hwC, sigma)
    height, width = source_hwC.shape[:2]
    covariance = smooth((source_hwC[..., :, None] * source_hwC[..., None, :]).reshape(height, width, 9), sigma)
    covariance = covariance.reshape(height, width, 3, 3) - mean_s[..., :, None] * mean_s[..., None, :]
    cross = smooth((change_hwC[..., :, None] * source_hwC[..., None, :]).reshape(height, width, 9), sigma)
    cross = cross.reshape(height, width, 3, 3) - mean_c[..., :, None] * mean_s[..., None, :]
    ridge = np.eye(3, dtype=np.float32) * np.float32(0.02**2 + noise**2)
    slope = np.linalg.solve(covariance + ridge, cross.swapaxes(-1, -2)).swapaxes(-1, -2)
    offset = mean_c - np.einsum("hwoi,hwi->hwo", slope, mean_s)
    return smooth(slope.reshape(height, width, 9), sigma).reshape(height, width, 3, 3), smooth(offset, sigma)


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
    if kept.mean() > _WHOLE or float(np.median(size)) > 1.5 * _NOISE:
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
