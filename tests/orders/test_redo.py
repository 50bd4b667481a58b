"""A picture of ours says how it was made, and the edit can be repeated from it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

import paintover
from paintover.errors import PictureError, RequestError
from paintover.models.tiny import tiny
from paintover.orders.redo import request_in


@pytest.fixture
def made(tmp_path, tiny_bundle, photo):
    """An edited picture beside its source; the bundle is a copy that a test may change."""
    shutil.copy(photo, tmp_path / "photo.png")
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")

    def make(name="out.png", **fields):
        fields = {"model": str(bundle), "steps": 2, "seed": 4, **fields}
        return paintover.edit(tmp_path / "photo.png", "make it night", out=tmp_path / name, **fields)

    return make


@pytest.mark.parametrize("name", ["out.png", "out.webp", "out.tiff"])
@pytest.mark.parametrize("editor", ["instruct", "mdp-noise"])
def test_repeats_bit_for_bit(name, editor, made):
    first = made(name, editor=editor)
    again = paintover.redo(first.path)
    assert again.identical
    assert again.same_source
    assert again.same_model
    assert again.largest_difference == 0
    assert again.result.request == first.request == request_in(first.path)


def test_says_that_the_source_differs(made, tmp_path):
    first = made()
    Image.fromarray(np.asarray(Image.open(tmp_path / "photo.png"))[:, ::-1]).save(tmp_path / "photo.png")
    again = paintover.redo(first.path)
    assert not again.same_source
    assert not again.identical
    assert again.same_model


def test_says_that_the_model_differs(made, tmp_path):
    first = made(preserve=False)
    shutil.rmtree(tmp_path / "bundle")
    tiny(tmp_path / "bundle", "builtin", seed=1)
    again = paintover.redo(first.path)
    assert not again.same_model
    assert not again.identical
    assert again.same_source


def test_finds_a_source_that_moved_along(tiny_bundle, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(photo, "photo.png")
    first = paintover.edit("photo.png", "night", model=str(tiny_bundle), steps=2, out="out.png")
    (tmp_path / "moved").mkdir()
    shutil.move("photo.png", "moved/photo.png")
    shutil.move(first.path, "moved/out.png")
    assert paintover.redo("moved/out.png").identical


def test_a_source_that_is_gone_can_be_named(made, tmp_path):
    first = made()
    shutil.move(tmp_path / "photo.png", tmp_path / "renamed.png")
    with pytest.raises(PictureError, match=r"photo\.png"):
        paintover.redo(first.path)
    assert paintover.redo(first.path, picture=tmp_path / "renamed.png").identical


def test_a_picture_from_memory_has_to_be_named(tiny_bundle, photo, tmp_path):
    pixels = np.asarray(Image.open(photo))
    first = paintover.edit(pixels, "night", model=str(tiny_bundle), steps=2, out=tmp_path / "out.png")
    with pytest.raises(RequestError, match="memory"):
        paintover.redo(first.path)
    assert paintover.redo(first.path, picture=pixels).identical


def test_a_mask_from_memory_has_to_be_given_again(made):
    mask = np.zeros((80, 120), np.uint8)
    mask[20:60, 30:90] = 255
    first = made(mask=mask)
    with pytest.raises(RequestError, match="--mask"):
        paintover.redo(first.path)
    again = paintover.redo(first.path, mask=mask)
    assert again.identical
    assert again.same_mask
    other = paintover.redo(first.path, mask=mask[::-1, ::-1] // 2)
    assert other.same_source
    assert not other.same_mask


def test_a_mask_that_moved_along_is_found_where_the_picture_is_named(tiny_bundle, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (120, 80), 255).save("mask.png")
    first = paintover.edit(photo, "night", mask="mask.png", model=str(tiny_bundle), steps=2, out="out.png")
    (tmp_path / "moved").mkdir()
    shutil.move("mask.png", "moved/mask.png")
    shutil.move(first.path, "moved/out.png")
    again = paintover.redo("moved/out.png", picture=photo)
    assert again.identical
    assert again.same_mask


def test_imagined_pictures_too(tiny_bundle, tmp_path):
    first = paintover.imagine("a cow", model=str(tiny_bundle), steps=2, out=tmp_path / "cow.png")
    assert paintover.redo(first.path).identical


def test_a_strangers_picture(photo):
    with pytest.raises(PictureError, match="provenance"):
        paintover.redo(photo)


def test_a_strangers_file_makes_us_download_nothing(made, tmp_path, monkeypatch):
    from paintover.models import bundle
    from paintover.picture import Metadata, read_provenance, save

    first = made()
    found = read_provenance(first.path)
    found["request"]["model"] = "owner/name@0123456789"
    hostile = save(tmp_path / "hostile.png", first, Metadata(), found)
    monkeypatch.setattr(bundle.hub, "fetch", lambda name: pytest.fail(f"asked the hub for {name}"))
    with pytest.raises(RequestError, match="--model"):
        paintover.redo(hostile)


def test_a_damaged_or_foreign_request(made, tmp_path):
    from paintover.picture import Metadata, save

    for found in ({}, {"request": None}, {"request": {"format": 2, "instruction": "x"}}, {"request": {"instruction": 3}}):
        path = save(tmp_path / "foreign.png", np.zeros((8, 8, 3), np.uint8), Metadata(), found, force=True)
        with pytest.raises(PictureError, match="another edition"):
            paintover.redo(path)
