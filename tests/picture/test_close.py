"""Closing, against the exact operation at native size: the model is simulated by doing it at the working size, with noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import paintover.picture as picture
from paintover.errors import RequestError
from paintover.picture import Closed, Geometry, Picture
from paintover.picture.change import drift

Float = np.ndarray[Any, np.dtype[np.float32]]


def photograph(height: int, width: int) -> Float:
    """Something with the statistics of a photograph: soft light, a few flat-coloured shapes, and texture at every scale."""
    rng = np.random.default_rng(5)
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    a = np.dstack([0.35 + 0.3 * y, 0.45 + 0.2 * x, 0.65 - 0.35 * y])
    for colour in ((0.7, 0.3, 0.2), (0.2, 0.5, 0.25), (0.8, 0.75, 0.6), (0.15, 0.2, 0.35)):
        cy, cx, r = rng.uniform(0.15, 0.85), rng.uniform(0.15, 0.85), rng.uniform(0.08, 0.2)
        a[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = colour
    for sigma in (0.7, 2, 6, 18):
        texture = ndimage.gaussian_filter(rng.normal(size=(height, width)), sigma, mode="wrap")
        a += (0.025 * texture / texture.std())[..., None]
    return np.clip(a, 0.03, 0.97).astype(np.float32)


NATIVE = photograph(750, 1000)
OPENED = picture.open(NATIVE)


def model(native: Float, geometry: Geometry, noise: float = 0.03) -> Float:
    """What a weak model makes of it: the picture at the working size, with errors both fine and coarse."""
    a = geometry.apply(native)
    rng = np.random.default_rng(9)
    fine, coarse = (ndimage.gaussian_filter(rng.normal(size=a.shape), (s, s, 0)) for s in (0.6, 4))
    return np.clip(a + noise * (0.8 * fine / fine.std() + 0.6 * coarse / coarse.std()), 0, 1).astype(np.float32)


def edit(after: Float, working: int = 64, mask: Float | None = None, noise: float = 0.03, opened: Picture = OPENED) -> Closed:
    geometry = Geometry.fit(opened.size_HW, working**2, 8)
    return picture.close(opened, model(after, geometry, noise), geometry.apply(opened.rgb_HWC), geometry, mask)


def psnr(a: Any, b: Any) -> float:
    return float(-10 * np.log10(((np.asarray(a, np.float64) - b) ** 2).mean()))


def night(a: Float) -> Float:
    grey = a @ np.array([0.3, 0.6, 0.1], np.float32)
    return (0.45 * (0.5 * a + 0.5 * grey[..., None]) * np.array([0.55, 0.7, 1.1], np.float32)).astype(np.float32)


LOOKS: dict[str, tuple[Callable[[Float], Float], float]] = {  # and the PSNR in dB to reach, where scaling up gives 22 to 28
    "darker": (lambda a: a * 0.5, 38),
    "black and white": (lambda a: np.repeat((a @ np.array([0.3, 0.6, 0.1], np.float32))[..., None], 3, axis=2), 35),
    "warmer": (lambda a: np.clip(a * np.array([1.15, 1.02, 0.8], np.float32), 0, 1), 35),
    "night": (night, 38),
    "vignette": (lambda a: a * (1 - 0.6 * np.linspace(-1, 1, a.shape[1], dtype=np.float32)[None, :, None] ** 2), 30),
    "blur": (lambda a: ndimage.gaussian_filter(a, (20, 20, 0)), 33),
}


@pytest.mark.parametrize("look", LOOKS)
def test_tone_edits_keep_native_detail(look: str) -> None:
    change, bound = LOOKS[look]
    closed = edit(change(NATIVE))
    assert closed.record["mode"] == "whole"
    assert psnr(closed.rgb_HWC / 255, change(NATIVE)) > bound


def with_disc(colour: tuple[float, float, float]) -> tuple[Float, Any]:
    y, x = np.mgrid[:750, :1000]
    inside = (y - 420) ** 2 + (x - 300) ** 2 < 110**2
    return np.where(inside[..., None], np.float32(colour), NATIVE).astype(np.float32), inside


@pytest.mark.parametrize("working", [64, 128])
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.04])
def test_an_object_edit_leaves_the_rest_bit_for_bit(working: int, noise: float) -> None:
    after, inside = with_disc((0.9, 0.1, 0.8))
    closed = edit(after, working, noise=noise)
    untouched = closed.change_HW == 0
    assert (closed.rgb_HWC[untouched] == OPENED.rgb_HWC[untouched]).all()
    assert untouched.mean() > 0.85
    assert closed.record["mode"] == "local"
    assert not (inside & untouched).any()
    assert np.abs(closed.rgb_HWC / 255 - after)[ndimage.binary_erosion(inside, iterations=40)].mean() < 0.05


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.04])
def test_no_change_gives_the_original_back(noise: float) -> None:
    closed = edit(NATIVE, noise=noise)
    assert (closed.rgb_HWC == OPENED.rgb_HWC).all()
    assert closed.record["mode"] == "none"
    assert closed.record["changed_fraction"] == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 120), st.integers(1, 120), st.booleans(), st.integers(0, 99))
def test_open_and_close_without_an_edit_is_the_identity(height: int, width: int, alpha: bool, seed: int) -> None:
    if max(height, width) > 8 * min(height, width):
        height = width
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4 if alpha else 3), dtype=np.uint8)
    opened = picture.open(pixels)
    geometry = Geometry.fit(opened.size_HW, 64**2, 8)
    source = geometry.apply(opened.rgb_HWC)
    closed = picture.close(opened, source, source, geometry)
    assert (closed.rgb_HWC == pixels[..., :3]).all()
    assert not alpha or (closed.alpha_HW == pixels[..., 3]).all()  # type: ignore[union-attr]


def test_the_mask_bounds_the_edit() -> None:
    mask = np.zeros((750, 1000), np.float32)
    mask[200:500, 300:800] = 1
    mask[200:500, 300:340] = np.linspace(0, 1, 40)
    closed = edit(1 - NATIVE, mask=mask)
    assert (closed.rgb_HWC[mask == 0] == OPENED.rgb_HWC[mask == 0]).all()
    assert psnr(closed.rgb_HWC[250:450, 400:750] / 255, (1 - NATIVE)[250:450, 400:750]) > 30
    assert closed.record["mode"] == "mask"
    with pytest.raises(RequestError, match="1000 x 750"):
        edit(NATIVE, mask=mask.T)


def test_raw_output_on_request() -> None:
    geometry = Geometry.fit((750, 1000), 64**2, 8)
    edited = model(NATIVE * 0.5, geometry)
    closed = picture.close(OPENED, edited, geometry.apply(NATIVE), geometry, preserve=False)
    assert np.abs(closed.rgb_HWC / 255 - np.clip(geometry.inverse(edited), 0, 1)).max() < 0.6 / 255
    assert closed.record["mode"] == "raw"


def test_untouched_pixels_of_a_file_with_its_own_colours() -> None:
    after, _ = with_disc((0.1, 0.9, 0.2))
    native = OPENED.rgb_HWC[..., ::-1].copy()  # stands for pixels in another colour space
    opened = Picture(OPENED.rgb_HWC, None, "", OPENED.metadata, (), native)
    closed = edit(after, opened=opened)
    untouched = closed.change_HW == 0
    assert (closed.rgb_HWC[untouched] == native[untouched]).all()


@pytest.mark.parametrize("shift", [(0.0, 0.0), (2.0, -1.0), (0.5, 1.25)])
def test_drift_is_measured_below_a_pixel(shift: tuple[float, float]) -> None:
    a = Geometry.fit((750, 1000), 128**2, 8).apply(NATIVE)
    moved = ndimage.shift(a, (*shift, 0), order=3, mode="nearest").astype(np.float32)
    for after in (moved, moved * 0.5 + 0.1):  # a tone edit is no drift
        found = drift(a, after, np.ones(a.shape[:2], np.float32))
        assert found == pytest.approx(shift, abs=0.2)
    assert drift(a * 0, a * 0, np.ones(a.shape[:2], np.float32)) is None


def test_the_only_detailed_things_softening_is_no_blur_of_the_picture():
    """On a smooth ground a thing goes and another comes back soft: the ground far from both stays, bit for bit."""
    y, x = np.meshgrid(np.linspace(0, 1, 300), np.linspace(0, 1, 300), indexing="ij")
    ground = np.dstack([0.6 + 0.2 * y, 0.5 + 0.2 * x, 0.6 - 0.1 * y]).astype(np.float32)
    texture = np.random.default_rng(2).uniform(0, 0.6, (300, 300, 1)).astype(np.float32).repeat(3, axis=2)
    texture = ndimage.gaussian_filter(texture, (1.5, 1.5, 0)) * 2 - 0.3
    before = ground.copy()
    before[60:120, 40:100] = texture[60:120, 40:100]
    before[190:250, 200:260] = texture[190:250, 200:260]
    after = before.copy()
    after[60:120, 40:100] = ground[60:120, 40:100]
    after[190:250, 200:260] = ndimage.gaussian_filter(before, (6, 6, 0))[190:250, 200:260]
    opened = picture.open(before)
    closed = edit(after, working=128, noise=0.01, opened=opened)
    assert closed.record["mode"] == "local"
    far = np.s_[:40, 150:]
    assert (closed.change_HW[far] == 0).all()
    assert (closed.rgb_HWC[far] == opened.rgb_HWC[far]).all()
