from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paintover.picture import Geometry
from paintover.picture.geometry import resize

sides = st.integers(1, 3000)


@given(sides, sides, st.sampled_from([64**2, 128**2, 512**2]), st.sampled_from([8, 16, 64]))
def test_fit_keeps_aspect_and_area_and_crops_nothing(height: int, width: int, area: int, multiple: int) -> None:
    g = Geometry.fit((height, width), area, multiple)
    (h, w), (ph, pw), (top, left) = g.scaled_HW, g.padded_HW, g.offset_HW
    assert ph % multiple == pw % multiple == 0
    assert 0 <= top <= ph - h < multiple
    assert 0 <= left <= pw - w < multiple
    if 1 / 8 <= height / width <= 8:
        assert abs(h * w / area - 1) < 0.1
    assert h == 1 or w == 1 or abs(h - w * height / width) <= 0.5 + 0.5 * height / width
    assert max(h, w) <= 4 * area**0.5 + 1
    assert Geometry.from_record(json.loads(json.dumps(g.record()))) == g


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 17), st.integers(0, 2**32 - 1))
def test_inverse_is_exact_where_nothing_is_scaled(height: int, width: int, multiple: int, seed: int) -> None:
    a = np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)
    padded = -(-height // multiple) * multiple, -(-width // multiple) * multiple
    g = Geometry((height, width), (height, width), padded, ((padded[0] - height) // 2, (padded[1] - width) // 2))
    assert g.apply(a).shape == (*padded, 3)
    np.testing.assert_array_equal(g.inverse(g.apply(a)), a)


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 120), st.integers(8, 120))
def test_a_gradient_survives_the_round_trip_in_place(height: int, width: int) -> None:
    """Pixel centres are kept: a picture that slid by half a pixel would be off by half a step everywhere."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    a = np.dstack([x / width, y / height, 0 * x])
    g = Geometry.fit((height, width), 64**2, 8)
    error = g.inverse(g.apply(a)) - a
    inner = error[height // 4 : -height // 4 or None, width // 4 : -width // 4 or None]
    assert np.abs(inner[..., 0]).max() < 0.1 / width + 1e-4
    assert np.abs(inner[..., 1]).max() < 0.1 / height + 1e-4


def test_padding_is_mirrored_and_values_stay_in_range() -> None:
    g = Geometry((2, 3), (2, 3), (8, 8), (3, 2))
    a = np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    np.testing.assert_array_equal(g.pad(a)[3:5, 1, 0], a[:, 1, 0])
    checker = np.indices((64, 64)).sum(axis=0) % 2
    small = resize(checker[..., None].astype(np.float32), (200, 13))
    assert small.min() >= 0
    assert small.max() <= 1


def test_uint8_is_the_same_as_float() -> None:
    a = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    g = Geometry.fit((90, 70), 32**2, 8)
    np.testing.assert_allclose(g.apply(a), g.apply(a.astype(np.float32) / 255), atol=1e-6)


def test_wrong_sizes_are_refused() -> None:
    g = Geometry.fit((90, 70), 32**2, 8)
    with pytest.raises(ValueError, match="90, 70"):
        g.apply(np.zeros((70, 90, 3), np.float32))
    with pytest.raises(ValueError, match="working size"):
        g.inverse(np.zeros((1, 1, 3), np.float32))
    with pytest.raises(ValueError, match="positive"):
        Geometry.fit((0, 5), 64, 8)
