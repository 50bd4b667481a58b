from __future__ import annotations

import pytest

from paintover.conditions.edits import Wanted, several
from paintover.errors import RequestError

BOUNDS = {"scale": (0.0, 50.0), "warm_up": (0.0, 45.0)}


@pytest.mark.parametrize(
    ("words", "edits"),
    [
        ("a hat", [Wanted("a hat", False, {})]),
        (" a hat ;-glasses; ", [Wanted("a hat", False, {}), Wanted("glasses", True, {})]),
        ("- a hat (scale=7, warm-up = 3)", [Wanted("a hat", True, {"scale": 7.0, "warm_up": 3.0})]),
        ("a hat (old)", [Wanted("a hat (old)", False, {})]),
        ("a hat (old) (scale=2)", [Wanted("a hat (old)", False, {"scale": 2.0})]),
        ("a well-worn hat", [Wanted("a well-worn hat", False, {})]),
    ],
)
def test_edits_are_read(words, edits):
    assert several(words, BOUNDS) == edits


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("a hat;; a cow", "edit 2 says nothing"),
        ("-", "edit 1 says nothing"),
        ("(scale=3)", "edit 1 says nothing"),
        ("a hat (weight=3)", "no setting 'weight'; it takes .scale=0..50, warm_up=0..45"),
        ("a hat (scale=much)", "scale is 'much'"),
        ("a hat (scale=51)", "scale is '51'"),
        ("a hat (scale=nan)", "scale is 'nan'"),
        ("a hat (scale=)", "scale is ''"),
    ],
)
def test_edits_that_make_no_sense_are_refused(words, says):
    with pytest.raises(RequestError, match=says):
        several(words, BOUNDS)
