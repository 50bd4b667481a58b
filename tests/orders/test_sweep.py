"""Sweep: a grid of edits in one picture."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import paintover
from paintover import picture as pictures
from paintover.errors import KnobError, PictureError, RequestError
from paintover.orders.redo import redo
from paintover.picture import grid, read_provenance


@pytest.fixture
def sweep(tiny_bundle, photo):
    def run(picture=photo, words="a field at night", **named):
        return paintover.sweep(picture, words, model=str(tiny_bundle), **{"steps": 10, "side": 64, **named})

    return run


def test_every_cell_is_the_edit_that_it_says(sweep, photo, tiny_bundle):
    found = sweep(x="t_max=50,40", y="t_m=10,20,30", guidance=2.0, seed=3)
    assert [[(cell.x, cell.y) for cell in row] for row in found.cells] == [[(50, m), (40, m)] for m in (10, 20, 30)]
    cell = found.cells[1][1]
    assert (cell.request.knobs["t_max"], cell.request.knobs["t_m"], cell.request.knobs["guidance"]) == (40, 20, 2.0)
    alone = paintover.edit(photo, "a field at night", editor="mdp-noise", model=str(tiny_bundle), steps=10, seed=3,
                           t_max=40, t_m=20, guidance=2.0)  # fmt: skip
    assert np.abs(grid.small(alone.rgb_HWC, None, 64).astype(int) - cell.rgb_HWC).max() <= 1
    assert cell.request == alone.request


def test_the_inversion_is_made_once(sweep):
    spent = [cell.record["evaluations"] for row in sweep(x="t_m=10,20,30,40", together=2).cells for cell in row]
    # Two at each of the 8, 6, 4, 2 steps outside of the window, and ten for the inversion, once.
    assert spent == [16 + 10, 12, 8, 4]


def test_the_mdp_editors_know_what_to_vary(sweep):
    found = sweep(editor="mdp-latent")
    assert (found.x.name, found.y.name) == ("t_max", "t_m")
    assert all(cell.reason is None for row in found.cells for cell in row)
    only_t_m = sweep(t_max=47)
    assert (only_t_m.x, only_t_m.y.name) == (None, "t_m")
    assert {cell.request.knobs["t_max"] for row in only_t_m.cells for cell in row} == {47}


def test_what_does_not_go_together_is_an_empty_cell_with_its_reason(sweep, tmp_path):
    found = sweep(x=("t_max", [50, 10]), y="t_m=5,20")
    assert [[cell.reason is None for cell in row] for row in found.cells] == [[True, True], [True, False]]
    assert "the window" in found.cells[1][1].reason
    with pytest.raises(KnobError, match="no edit of the grid can be: the window"):
        sweep(x="t_max=10", y="t_m=20,30", out=tmp_path / "grid.png")
    assert list(tmp_path.iterdir()) == []


def test_steps_seeds_and_texts_can_be_varied(sweep):
    found = sweep(editor="sdedit", x="seed=1,2", y="steps=4,10", steps=None)
    assert [[(c.request.seed, c.request.steps) for c in row] for row in found.cells] == [[(1, 4), (2, 4)], [(1, 10), (2, 10)]]
    shares = sweep(x="schedule=linear;1,1,0.5,0.5,0", t_max=50, t_m=25)
    assert [cell.request.knobs["schedule"] for cell in shares.cells[0]] == ["linear", "1,1,0.5,0.5,0"]


def test_a_picture_that_is_made(sweep, tiny_bundle):
    found = sweep(None, made="a cow", x="t_m=0,20", y="seed=0,1")
    source = paintover.imagine("a cow", model=str(tiny_bundle), steps=10, seed=0).rgb_HWC.astype(int)
    assert {cell.request.source_prompt for row in found.cells for cell in row} == {"a cow"}
    shown = (found.rgb_HWC[y : y + 64, x : x + 64] for y in range(30, 90) for x in range(5, 15))
    assert any(np.abs(there - source).max() <= 1 for there in shown)


@pytest.mark.parametrize(("y", "differ"), [("seed=0,1", True), ("guidance=2,3", True), ("amplify=0.5,1", False)])
def test_a_made_picture_that_is_the_first_edits_alone_says_so(y, differ, sweep, monkeypatch):
    drawn = []
    draw = grid.draw
    monkeypatch.setattr(grid, "draw", lambda *page: drawn.append(page) or draw(*page))
    sweep(None, made="a cow", x="t_m=0,20", y=y, steps=4)
    assert drawn[0][1][1] == ("the first edit's (others differ): a cow" if differ else "a cow")


def test_the_picture_is_opened_once_and_the_share_of_edits_done_is_told(sweep, photo, monkeypatch):
    opened, told = [], []
    first = pictures.open
    monkeypatch.setattr(pictures, "open", lambda *asked: opened.append(asked[0]) or first(*asked))
    found = sweep(x="t_m=10,20,30", together=2, steps=4, on_edit=lambda done, count: told.append((done, count)))
    assert opened == [photo]
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert found.cells[0][0].request.picture == str(photo)


@pytest.mark.parametrize(
    ("named", "error", "says"),
    [
        ({"editor": "sdedit"}, RequestError, "sdedit can vary strength, guidance, negative_prompt, steps, seed"),
        ({"x": "strength=0.1,0.2"}, KnobError, "mdp-noise has no 'strength' to vary"),
        ({"x": "t_max=50,51"}, KnobError, "0 to 50"),
        ({"x": "t_max"}, RequestError, "write t_max=value,value"),
        ({"x": "t_max=1,,2"}, RequestError, "write t_max=value,value"),
        ({"x": "t_max=50,50"}, RequestError, "same value twice"),
        ({"x": "t_max=50", "y": "t_max=40"}, RequestError, "both axes"),
        ({"x": "t_max=50", "t_max": 40}, RequestError, "given as well"),
        ({"x": "steps=4,8"}, RequestError, "given as well"),
        ({"x": "seed=" + ",".join(map(str, range(401)))}, RequestError, "at most 400"),
        ({"x": "seed=-1"}, RequestError, "seed"),
        ({"made": "a cow"}, RequestError, "name one of them"),
        ({"picture": None, "made": " "}, RequestError, "first .--made. is empty"),
        ({"x": ""}, RequestError, "an axis is ''; write what varies"),
        ({"x": "=1,2"}, RequestError, "an axis is '=1,2'; write what varies"),
        ({"picture": None}, RequestError, "--made"),
        ({"editor": "mdp"}, RequestError, "mdp"),
        ({"words": " "}, RequestError, "caption is empty"),
    ],
)
def test_what_makes_no_sense_is_said_before_any_model_is_loaded(named, error, says, sweep, monkeypatch):
    from paintover.models import bundle

    monkeypatch.setattr(bundle, "load", lambda *args, **named: pytest.fail("loaded a model"))
    with pytest.raises(error, match=says):
        sweep(**named)


@pytest.mark.parametrize("of", [{}, {"picture": None, "made": "a cow"}])
def test_a_grid_that_its_file_cannot_hold_is_refused_before_any_edit(of, sweep, tmp_path, monkeypatch):
    from paintover.models import bundle

    monkeypatch.setattr(bundle, "load", lambda *args, **named: pytest.fail("loaded a model"))
    many = {"x": "seed=" + ",".join(map(str, range(20))), "side": 1000}
    with pytest.raises(RequestError, match=r"\.webp holds up to 16383 pixels a side, the picture has 2\d{4}; use \.png"):
        sweep(**{**of, **many}, out=tmp_path / "grid.webp")


def test_an_edit_that_overflows_is_an_empty_cell_with_its_reason(sweep, monkeypatch):
    from paintover.orders import work

    walked = work.Work.path

    def overflowing(self, prepared):
        latents_BCHW = yield from walked(self, prepared)
        return latents_BCHW * (np.nan if self.context.request.seed == 2 else 1)

    monkeypatch.setattr(work.Work, "path", overflowing)
    found = sweep(editor="sdedit", x="seed=1,2", steps=4)
    assert [cell.reason is None for cell in found.cells[0]] == [True, False]
    assert "not finite" in found.cells[0][1].reason


def test_the_file_says_what_it_is(sweep, tmp_path):
    out = tmp_path / "grid.png"
    found = sweep(x="t_m=10,20", out=out)
    assert np.array_equal(np.asarray(Image.open(out)), found.rgb_HWC)
    told = read_provenance(out)["sweep"]
    assert told["x"] == {"t_m": [10, 20]}
    assert told["first"]["knobs"]["t_m"] == 10
    with pytest.raises(PictureError, match="sheet of several edits"):
        redo(out)
    with pytest.raises(RequestError, match="exists"):
        sweep(x="t_m=10,20", out=out)
    json.dumps(told)


def test_the_grid_shows_source_labels_and_cells_in_their_places():
    red, blue, green = (np.full((40, 60, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255), (0, 255, 0)))
    page = grid.draw("words " * 40, (red, "the picture"), ["x = 1", "x = 2"], ["y = 1", "y = 2"],
                     [[blue, green], ["it cannot be " * 20, blue]])  # fmt: skip
    where = {name: np.argwhere((page == colour).all(axis=2)) for name, colour in
             (("red", (255, 0, 0)), ("blue", (0, 0, 255)), ("green", (0, 255, 0)), ("empty", (232, 232, 232)))}  # fmt: skip
    assert (len(where["red"]), len(where["blue"]), len(where["green"])) == (2400, 4800, 2400)
    assert where["red"][:, 1].max() < where["blue"][:, 1].min() < where["green"][:, 1].min()
    assert where["red"][:, 0].min() == where["green"][:, 0].min()
    assert where["green"][:, 0].max() < np.median(where["empty"][:, 0])
    assert 1000 < len(where["empty"]) < 2400  # with words in it
    plain = grid.draw("words", (red, "the picture"), [], [], [[blue]])
    assert plain.shape[0] < page.shape[0]


def test_small_pictures_are_scaled_and_lie_on_white():
    assert grid.small(np.zeros((10, 40, 3), np.uint8), None, 100).shape == (25, 100, 3)
    assert grid.small(np.zeros((1, 4000, 3), np.uint8), None, 100).shape == (1, 100, 3)
    assert grid.small(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), 8).min() == 255
