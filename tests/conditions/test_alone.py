from __future__ import annotations

import pytest

from paintover.conditions.alone import says


@pytest.mark.parametrize(
    ("word", "text", "said"),
    [
        ("cow", "A Cow, on grass", True),
        ("cow", "a cow-like cloud", True),
        ("cow", "a cowboy", False),
        ("cow", "a_cow", False),
        ("*", "a painting of*", True),
        ("new.thing", "a newXthing", False),
        ("style9", "in \u017ftyle9", True),
    ],
)
def test_a_word_is_said_where_it_stands_alone(word, text, said):
    assert says(word, text) == said
