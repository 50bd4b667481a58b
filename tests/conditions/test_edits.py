from __future__ import annotations

import pytest

from paintover.conditions.edits import Bounds, Wanted, several
from paintover.errors import RequestError

BOUNDS = {"scale": Bounds(0, 50), "warm_up": Bounds(0, 45, whole=True)}


@pytest.mark.parametrize(
    ("words", "edits"),
    [
        ("a hat", [Wanted("a hat", False, {})]),
        (" a hat ;-glasses; ", [Wanted("a hat", False, {}), Wanted("glasses", True, {})]),
        ("- a hat (scale=7, warm-up = 3)", [Wanted("a hat", True, {"scale": 7.0, "warm_up": 3.0})]),
        ("a hat (old)", [Wanted("a hat (old)", False, {})]),
        ("a hat (old) (scale=2)", [Wanted("a hat (old)", False, {"scale": 2.0})]),
        ("a (red) hat", [Wanted("a (red) hat", False, {})]),
        ("a hat (scale model", [Wanted("a hat (scale model", False, {})]),
        ("a sign: 1+1=2", [Wanted("a sign: 1+1=2", False, {})]),
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
        ("a hat (warm_up=2.7)", "warm_up is '2.7', but is a whole number; it takes .scale"),
        ("a hat (scale=2, scale=3)", "scale is said twice"),
        ("(", "edit 1 says nothing"),
        *(
            (words, r'write them last, in one pair of parentheses: "a hat \(name=number, name=number\)", with scale=0..50')
            for words in (
                "a hat (scale=7) on grass",
                "a hat (size=7) on grass",
                "a (scale=7",
                "a cow; a hat (scale=7)(warm_up=5)",
                "a hat (scale 7)",
                "a hat (warm-up: 7)",
                "a hat scale=7",
                "a hat warm-up = 7)",
            )
        ),
    ],
)
def test_edits_that_make_no_sense_are_refused(words, says):
    with pytest.raises(RequestError, match=says):
        several(words, BOUNDS)
