"""Metrics against direct computations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from paintover.evaluation.metrics import l1, l2, psnr, ssim


@pytest.fixture
def pair():
    rng = np.random.default_rng(1)
    a = rng.random((24, 30, 3))
    return a, np.clip(a + rng.normal(0, 0.1, a.shape), 0, 1)


def test_a_picture_is_itself(pair):
    a, _ = pair
    assert l1(a, a) == l2(a, a) == 0
    assert ssim(a, a) == pytest.approx(1, abs=1e-12)
    assert psnr(l2(a, a)) == math.inf


def test_known_differences():
    a = np.zeros((4, 4, 3))
    b = a.copy()
    b[:2] = 0.5
    b[0, 0, 1] = 1.0
    assert l1(a, b) == pytest.approx((0.5 * 23 + 1) / 48)
    assert l2(a, b) == pytest.approx((0.25 * 23 + 1) / 48)
    assert psnr(0.01) == pytest.approx(20)
    assert math.isnan(psnr(math.nan))


def test_masks_choose_where(pair):
    a, _ = pair
    b, mask = a.copy(), np.zeros(a.shape[:2], bool)
    mask[3:9, 4:20] = True
    b[mask] = 1 - b[mask]
    assert l1(a, b, ~mask) == l2(a, b, ~mask) == 0
    assert l1(a, b, mask) == pytest.approx(np.abs(1 - 2 * a[mask]).mean())
    assert l1(a, b) == pytest.approx(l1(a, b, mask) * mask.mean())
    assert ssim(a, b, mask) < 0.5
    far = np.zeros_like(mask)
    far[16:, 26:] = True  # more than the window's 5 pixels from the change
    assert ssim(a, b, far) == pytest.approx(1, abs=1e-12)
    for measure in (l1, l2, ssim):
        assert math.isnan(measure(a, b, np.zeros_like(mask)))


def test_ssim_is_wangs(pair):
    """At one inside pixel, from the definition: weighted moments in its 11 x 11 window."""
    a, b = pair
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    for y, x in ((5, 5), (12, 17), (18, 24)):
        per_channel = []
        for c in range(3):
            p, q = (picture[y - 5 : y + 6, x - 5 : x + 6, c] for picture in (a, b))
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            c1, c2 = 0.01**2, 0.03**2
            per_channel.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
        here = np.zeros(a.shape[:2], bool)
        here[y, x] = True
        assert ssim(a, b, here) == pytest.approx(np.mean(per_channel), rel=1e-9)
