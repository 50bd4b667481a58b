"""A picture made from words, and another one made beside it."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from PIL import Image

import paintover
from paintover.editors import registry
from paintover.errors import PaintoverError, RequestError
from paintover.orders.redo import redo, request_in
from paintover.orders.sweep import sweep
from paintover.picture import File, save_all

OF_MADE = [name for name in registry.names() if registry.get(name).picture == "either"]


@pytest.mark.parametrize("name", OF_MADE)
def test_both_pictures_are_saved_and_say_how_they_were_made(name, tiny_bundle, tmp_path):
    out = tmp_path / "pig.webp"
    made = paintover.imagine("a cow", then="a pig", editor=name, model=str(tiny_bundle), steps=6, guidance=2.0, seed=4, out=out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pig.source.png", "pig.webp"]
    assert made.files == {"source": tmp_path / "pig.source.png"}
    assert np.array_equal(np.asarray(Image.open(out)), made.rgb_HWC)
    assert np.array_equal(np.asarray(Image.open(made.files["source"])), made.shown["source"])
    assert not np.array_equal(made.rgb_HWC, made.shown["source"])
    first = request_in(made.files["source"])
    assert (first.editor, first.instruction, first.seed, first.steps) == ("imagine", "a cow", 4, 6)
    assert redo(made.files["source"]).identical
    assert redo(out).identical


def test_nothing_is_computed_where_one_of_both_is_in_the_way(tiny_bundle, tmp_path):
    (tmp_path / "pig.source.png").write_text("mine")
    with pytest.raises(RequestError, match=r"pig\.source\.png: exists"):
        paintover.imagine("a cow", then="a pig", model=str(tiny_bundle), out=tmp_path / "pig.png")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_files_that_belong_together_are_both_there_or_neither(tmp_path, monkeypatch):
    """A disk that is full at the second file."""
    import os

    pixels = np.zeros((4, 4, 3), np.uint8)
    (tmp_path / "a.png").write_text("old")
    written = []
    sync = os.fsync

    def full(descriptor):
        written.append(descriptor)
        if len(written) > 1:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RequestError, match=r"b\.png: cannot be written \(No space left"):
        save_all([File(tmp_path / "a.png", pixels), File(tmp_path / "b.png", pixels)], force=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.png": "old"}


def test_no_knob_is_called_as_an_argument_of_what_takes_it():
    """It could not be given: neither from Python nor on the command line."""
    taken = {name for call in (paintover.edit, paintover.imagine, sweep) for name in inspect.signature(call).parameters}
    clashes = {name: taken & set(registry.get(name).Knobs.model_fields) for name in registry.names()}
    assert not any(clashes.values()), clashes


@pytest.mark.parametrize("named", [{"editor": "mdp-noise"}, {"then": "a pig", "editor": "sdedit"}, {"then": " "}])
def test_what_makes_no_sense(named, tiny_bundle):
    with pytest.raises(PaintoverError):
        paintover.imagine("a cow", model=str(tiny_bundle), **named)
