"""Compare: several editors' answers to the same words, in one sheet."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import paintover
from paintover import cli
from paintover.editors.instruct import Instruct
from paintover.errors import ModelError, PictureError, RequestError
from paintover.orders.redo import redo
from paintover.picture import grid, read_provenance

PAIR = ("instruct", "sdedit")


@pytest.fixture
def compare(tiny_bundle, photo):
    def run(picture=photo, words="a field at night", **named):
        return paintover.compare(picture, words, **{"model": str(tiny_bundle), "steps": 2, "editors": PAIR, **named})

    return run


def test_every_column_is_the_edit_that_it_says(compare, photo, tiny_bundle):
    found = compare(seed=3)
    assert [column.editor for column in found.columns] == list(PAIR)
    for column in found.columns:
        alone = paintover.edit(photo, "a field at night", editor=column.editor, model=str(tiny_bundle), steps=2, seed=3)
        assert column.request == alone.request
        assert np.abs(grid.small(alone.rgb_HWC, None, 256).astype(int) - column.rgb_HWC).max() <= 1


def test_the_sheet_holds_the_picture_and_every_answer_in_order(compare, photo):
    found = compare()
    shown = [grid.small(np.asarray(Image.open(photo)), None, 256), *(column.rgb_HWC for column in found.columns)]
    places = []
    for pixels in shown:
        height, width = pixels.shape[:2]
        match = [
            x
            for x in range(found.rgb_HWC.shape[1] - width + 1)
            for y in range(found.rgb_HWC.shape[0] - height + 1)
            if (found.rgb_HWC[y, x : x + width : 16] == pixels[0, ::16]).all()
            and (found.rgb_HWC[y : y + height, x : x + width] == pixels).all()
        ]
        assert len(match) == 1
        places += match
    assert places == sorted(places)


def test_what_an_editor_made_of_the_words_stands_beneath_it(compare):
    found = compare(editors=["instruct", "lgie", "mgie"])
    assert [column.text for column in found.columns] == ["", *(c.record["expressive"] for c in found.columns[1:])]
    assert all(column.text for column in found.columns[1:])
    without = compare(editors=["instruct"])
    assert found.rgb_HWC.shape[0] > without.rgb_HWC.shape[0]
    top = without.rgb_HWC.shape[0] - 10
    assert (without.rgb_HWC[top - 10 : top] == 255).all()
    own = found.rgb_HWC.shape[1] // 2  # where the columns of those begin that said something
    assert (found.rgb_HWC[top - 10 : top, :own] == 255).all()
    assert (found.rgb_HWC[top - 10 : top, own:] < 255).any()


def test_an_editor_that_cannot_is_an_empty_place_that_says_why(tmp_path_factory, photo):
    from paintover.models.tiny import tiny

    bundle = tiny(tmp_path_factory.mktemp("sd"), "text-to-image")
    found = paintover.compare(photo, "a field", editors=["sdedit", "instruct"], model=bundle, steps=2)
    able, unable = found.columns
    assert able.reason is None
    assert (unable.rgb_HWC, unable.request) == (None, None)
    assert "instruct" in unable.reason
    area = able.rgb_HWC.shape[0] * able.rgb_HWC.shape[1]
    assert area <= (found.rgb_HWC == 232).all(axis=2).sum() < area + 200  # the place, and some edges of letters


@pytest.mark.parametrize(("size", "side"), [((5000, 3000), 512), ((40, 30), 256), ((3000, 8), 512)])
def test_the_sheet_is_legible_whatever_the_size(size, side, compare):
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(size)
    found = compare(picture, "ein grünes Feld 🎃 عشب 草地 " * 20, editors=["instruct"], steps=1)
    assert max(found.columns[0].rgb_HWC.shape) == side
    assert 2 * side < found.rgb_HWC.shape[1] < 2 * side + 100


def test_a_narrow_picture_leaves_room_for_words():
    thin = np.zeros((200, 3, 3), np.uint8)
    page = grid.row("words", [("the picture", thin, ""), ("other", None, "it cannot be " * 9)])
    assert page.shape[1] > 2 * 200
    short = grid.row("words", [("the picture", thin, ""), ("other", None, "no")])
    assert short.shape[0] < page.shape[0] < short.shape[0] + 150


@pytest.mark.parametrize(
    ("named", "error", "says"),
    [
        ({"editors": ["instruct", "instrukt"]}, RequestError, "instrukt"),
        ({"editors": []}, RequestError, "which editors"),
        ({"editors": "mgie"}, RequestError, "editors is 'mgie'; expected a list"),
        ({"editors": [5]}, RequestError, "expected a list of names"),
        ({"side": 0}, RequestError, "side is 0; expected 32 to 2048"),
        ({"side": 10**6}, RequestError, "expected 32 to 2048"),
        ({"source_prompt": "a field"}, RequestError, "none of instruct, sdedit takes a source prompt"),
        ({"words": " "}, RequestError, "none of the editors can: instruct: the instruction is empty"),
        ({"picture": "none.png"}, PictureError, "none.png"),
        ({"seed": -1}, RequestError, "seed"),
        ({"editors": ["imagine"]}, RequestError, "imagine makes a picture from words alone"),
    ],
)
def test_what_makes_no_sense_is_said_before_any_model_is_loaded(named, error, says, compare, monkeypatch):
    from paintover.models import bundle

    monkeypatch.setattr(bundle, "load", lambda *args, **named: pytest.fail("loaded a model"))
    with pytest.raises(error, match=says):
        compare(**named)


def test_only_those_who_take_a_source_prompt_are_told_it(compare):
    found = compare(editors=["instruct", "mdp-noise"], source_prompt="a field")
    assert [column.request.source_prompt for column in found.columns] == [None, "a field"]


def test_a_fault_of_ours_is_raised(compare, monkeypatch):
    def broken(self, context, prepared):
        raise ZeroDivisionError("one over nothing")

    monkeypatch.setattr(Instruct, "path", broken)
    with pytest.raises(ZeroDivisionError):
        compare()


def test_the_file_says_what_it_is(compare, tmp_path):
    out = tmp_path / "sheet.png"
    found = compare(out=out)
    assert np.array_equal(np.asarray(Image.open(out)), found.rgb_HWC)
    told = read_provenance(out)["sweep"]
    assert told["x"] == {"editor": list(PAIR)}
    assert told["first"]["editor"] == "instruct"
    with pytest.raises(PictureError, match="sheet of several edits"):
        redo(out)
    with pytest.raises(RequestError, match="exists"):
        compare(out=out)


def test_the_command(photo, tiny_bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*more):
        words = ["compare", photo, "a field at night", "--model", tiny_bundle, "--steps", 2, *more]
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in words])
        return ended.value.code, *capsys.readouterr()

    assert call("--editors", "instruct, sdedit")[:2] == (0, "compare.png\n")
    code, _, err = call("--editors", "instruct,sdedit")
    assert code == 2
    assert "exists" in err
    code, out, _ = call("--force", "--json")
    said = json.loads(out)
    assert [cell["editor"] for cell in said["editors"]] == ["instruct", "lgie", "mgie"]
    assert said["width"] > 4 * 256
    code, out, err = call("--editors", "flowedit,imagine,instruct", "--json", "--force", "--seed", 5)
    said = json.loads(out)
    assert code == 2
    assert "imagine failed: imagine makes a picture from words alone" in err
    assert [cell["editor"] for cell in said["editors"]] == ["flowedit", "imagine", "instruct"]
    assert said["editors"][1].keys() == {"editor", "reason"}
    assert said["editors"][2]["request"]["seed"] == 5
    with Image.open(tmp_path / said["out"]) as sheet:
        assert sheet.size == (said["width"], said["height"])


def test_it_is_loaded_when_first_used():
    assert "compare" in dir(paintover)
    assert paintover.compare.__module__ == "paintover.orders.compare"
    assert issubclass(ModelError, paintover.PaintoverError)
