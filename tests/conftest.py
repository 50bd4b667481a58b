"""Settings that every test shares."""

import os

# Before torch is imported anywhere: tiny models run fastest on one thread, and the same everywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """No test finds what another one, or the user, has prepared."""
    monkeypatch.setenv("PAINTOVER_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory) -> Path:
    """The built-in model in small, with random weights: it can do everything, in 64 x 64 pixels."""
    from paintover.models.tiny import tiny

    return tiny(tmp_path_factory.mktemp("tiny"), "builtin")


@pytest.fixture(scope="session")
def photo(tmp_path_factory) -> Path:
    """A picture of 120 x 80 pixels with smooth areas and detail."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)).resize((120, 80), Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse).astype(int) + rng.integers(-12, 13, (80, 120, 3))
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
    return path
