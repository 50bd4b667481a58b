"""Whole edits on SDXL: from a picture to a picture, alone and together, by weights that were tuned to it, in half precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from paintover.editors import registry
from paintover.editors.editor import Context
from paintover.engine.engine import Engine
from paintover.models.bundle import load
from paintover.models.tiny import tiny
from paintover.orders.order import Order, request_for
from paintover.orders.run import edit_many, edit_one
from paintover.path.start import noise
from paintover.picture.open import open as open_picture

KNOBS = {
    "sdedit": {"negative_prompt": "a pig"},
    "prompt-to-prompt": {"blend": "cow/sheep", "inversion": "null-text", "inner": 1},
    "masactrl": {"subject": "cow/sheep"},
    "diffedit": {},
    "unitune": {"iterations": 2, "batch": 1, "tune": "lora", "rank": 2},
    "textual-inversion": {"iterations": 2, "batch": 1, "vectors": 2, "word": "sheep"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny(tmp_path_factory.mktemp("sdxl"), "sdxl-refiner")


def order(folder: Path, name: str, picture, **fields) -> Order:
    prompt = "a cow in snow" if name in ("prompt-to-prompt", "masactrl") else None
    knobs, told = KNOBS[name], {"model": str(folder), "steps": 4, "source_prompt": prompt, **fields}
    return Order(request_for(instruction="a sheep in snow", editor=name, picture=str(picture), knobs=knobs, **told))


@pytest.mark.parametrize("name", list(KNOBS))
def test_a_picture_is_edited_inside_of_its_mask(name, folder, photo, tmp_path):
    mask = np.zeros((80, 120), np.uint8)
    mask[20:60, 30:90] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    before = np.asarray(Image.open(photo))
    after = edit_one(order(folder, name, photo, mask=str(tmp_path / "mask.png"))).rgb_HWC
    assert np.array_equal(before[mask == 0], after[mask == 0])
    assert not np.array_equal(before[mask > 0], after[mask > 0])


def test_edits_together_are_as_those_alone(folder, photo, tmp_path):
    """Of one size and of two: each row is told the sizes of its own picture."""
    Image.open(photo).rotate(90, expand=True).save(tmp_path / "tall.png")
    orders = [order(folder, "sdedit", picture, seed=n) for n, picture in enumerate((photo, photo, tmp_path / "tall.png"))]
    together = [result.rgb_HWC.astype(int) for result in edit_many(orders)]
    for one, many in zip(orders, together, strict=True):
        assert np.abs(edit_one(one).rgb_HWC.astype(int) - many).max() <= 1


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    return tiny(tmp_path_factory.mktemp("any2pix"), "sdxl-any2pix")


@pytest.mark.parametrize(("refinement", "finishing"), [(0.0, 0), (None, 2), (0.75, 6)])
def test_any2pix_is_finished_by_the_refiner(refinement, finishing, released, monkeypatch):
    """One row a step inverts the picture, two walk back, and two, the refiner's, walk the end once more."""
    steps, bundle, editor, asked = 8, load(released, "cpu"), registry.get("any2pix"), []
    refine = bundle.refiner.denoiser.output
    monkeypatch.setattr(bundle.refiner.denoiser, "output", lambda x, *told: asked.extend(x) or refine(x, *told))
    knobs = editor.settled(editor.Knobs(refinement=refinement), bundle)
    request = request_for(instruction="add [image2] to [image1]", editor="any2pix", seed=1, steps=steps)
    pictures = {f"image{n + 1}": open_picture(np.full((40, 60, 3), shade, np.uint8)) for n, shade in enumerate((20, 200))}
    context = Context(bundle, request, knobs, (1, 4, 6, 14), noise(3, (1, 4, 6, 14)) * 0.7, media=pictures)
    engine = Engine(bundle.denoiser)
    prepared = engine.result(engine.add(editor.prepare(context)))
    end = engine.result(engine.add(editor.path(context, prepared)))
    assert end.isfinite().all()
    assert engine.counters.rows == steps + 2 * steps + 2 * finishing
    assert len(asked) == 2 * finishing


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(dtype, folder):
    full, half = load(folder, "cpu"), load(folder, "cpu", dtype)
    x, t = torch.randn(1, 4, 8, 14, generator=torch.Generator().manual_seed(2)), torch.tensor([400])
    told = full.text.encode(["a cow"])
    near, exact = half.denoiser(x, t, *told), full.denoiser(x, t, *told)
    assert near.dtype == torch.float32
    assert 0 < (near - exact).abs().mean() < 0.03 * exact.abs().mean()
    refiner, tokens, pooled = full.refiner, *full.refiner.text.encode(["a cow"])
    scored = refiner.told(pooled, 6.0)
    near, exact = (one.refiner.denoiser(x, t, tokens, scored) for one in (half, full))
    assert 0 < (near - exact).abs().mean() < 0.03 * exact.abs().mean()
