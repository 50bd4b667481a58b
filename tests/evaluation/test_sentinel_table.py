"""What choosing is worth: known values in, known answers out; and that it goes on where it was stopped."""

from __future__ import annotations

import json

import numpy as np
import pytest

from paintover import cli
from paintover.errors import RequestError
from paintover.evaluation import sentinel
from paintover.evaluation.sentinel import MEASURES, Measured, groups, listings, run

WORDS = {"size": 32, "steps": 1, "count": 3, "candidates": 3}


def _case(n, inside, scores, kind="remove"):
    values = {name: np.array(inside, float) for name in MEASURES}
    return Measured(n, kind, values, scores)


def test_a_score_that_knows_takes_the_nearest_and_one_that_does_not_loses():
    errors = [[0.3, 0.1, 0.2], [0.2, 0.3, 0.1], [0.25, 0.1, 0.4]]
    knowing = [_case(n, row, [(-e, 1.0) for e in row]) for n, row in enumerate(errors)]
    found = groups(knowing, [0.0])["all"]
    assert found["chosen, weight 0"] == found["nearest to the truth"]
    assert found["chosen, weight 0"]["l1_inside"]["mean"] == pytest.approx(0.1)
    assert found["chosen, weight 0"]["l1_inside"]["against_first"]["says"] == "won"
    assert found["first seed"]["l1_inside"]["mean"] == pytest.approx(0.25)
    assert found["any seed"]["l1_inside"]["mean"] == pytest.approx(np.mean(errors), abs=1e-5)
    fooled = groups([_case(n, row, [(e, 1.0) for e in row]) for n, row in enumerate(errors)], [0.0])["all"]
    assert fooled["chosen, weight 0"]["l1_inside"]["mean"] > found["first seed"]["l1_inside"]["mean"]


def test_the_weight_decides_between_words_and_the_rest():
    one = _case(0, [0.3, 0.1], [(0.2, 0.8), (0.1, 0.95)])
    assert [one.chosen(weight) for weight in (0, 0.5, 1)] == [0, 0, 1]
    assert _case(0, [0.3, 0.1], [(0.1, None), (0.1, None)]).chosen(1) == 0


def test_it_measures_what_the_product_made_and_goes_on(tiny_world, tiny_bundle, tiny_clip, tmp_path, monkeypatch):
    more = {**WORDS, "model": str(tiny_bundle), "scorer": str(tiny_clip), "out": tmp_path}
    found = run(*tiny_world, **more)
    assert len(list((tmp_path / "cases").glob("*.candidate-*.png"))) == 9
    whole = found["groups"]["all"]
    assert whole["nearest to the truth"]["l1"]["mean"] <= min(row["l1"]["mean"] for row in whole.values())
    (tmp_path / "cases" / "00001.png").unlink()
    asked = []
    many = sentinel.edit_many
    monkeypatch.setattr(sentinel, "edit_many", lambda orders, **rest: many(asked.extend(orders) or orders, **rest))
    again = run(*tiny_world, **more)
    assert len(asked) == 1
    assert again["groups"] == found["groups"]
    assert json.loads((tmp_path / "report.json").read_text())["groups"] == found["groups"]
    assert listings(found)[0].rows[0][0] == "first seed"
    with pytest.raises(RequestError, match="candidates 3, not 2"):
        run(*tiny_world, **more | {"candidates": 2})


def test_the_command(tiny_world, tiny_bundle, tiny_clip, tmp_path, capsys):
    words = ["evaluate", "sentinel", "--out", tmp_path, "--model", tiny_bundle, "--scorer", tiny_clip, "--world", tiny_world[0]]
    words += ["--photos", tiny_world[1], "--count", 2, "--candidates", 2, "--steps", 1, "--size", 32]

    def call(*more):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in (*words, *more)])
        return ended.value.code, *capsys.readouterr()

    code, out, _ = call("--weights", "0,2")
    assert code == 0
    assert "chosen, weight 2" in out
    code, _, err = call("--weights", "heavy")
    assert (code, "such as 0,1" in err) == (2, True)
