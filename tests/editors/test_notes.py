"""What has no effect is told, and only that."""

from __future__ import annotations

from typing import Any

import pytest

from paintover.editors import registry
from paintover.orders.order import Order, request_for
from paintover.orders.run import edit_one

MADE = [name for name in registry.names() if registry.get(name).picture == "either"]


@pytest.fixture
def warnings(tiny_bundle, photo):
    def told(name: str, made: bool = False, steps: int = 4, **knobs: Any) -> list[str]:
        picture = {} if made else {"picture": str(photo)}
        request = request_for(
            instruction="a cow", source_prompt="a pig", editor=name, knobs=knobs, model=str(tiny_bundle), steps=steps, **picture
        )
        return edit_one(Order(request)).record["warnings"]

    return told


def test_a_negative_prompt_that_the_inversion_stands_in_for(warnings):
    [warning] = warnings("mdp-noise", inversion="negative-prompt", negative_prompt="sun", guidance=3.0)
    assert "negative prompt has no effect with this inversion" in warning
    assert warnings("mdp-noise", inversion="negative-prompt", guidance=3.0) == []
    assert warnings("mdp-noise", negative_prompt="sun", guidance=3.0) == []


@pytest.mark.parametrize("name", MADE)
def test_how_a_made_picture_would_be_inverted(name, warnings):
    assert warnings(name, made=True) == []
    told = warnings(name, made=True, inversion="ddim", iterations=2)
    assert ["no effect beside a picture that is made" in warning for warning in told] == [True, True]
    assert warnings(name, inversion="ddim", guidance=1.0) == []


def test_weights_of_words_that_no_step_looks_at(warnings):
    [warning] = warnings("prompt-to-prompt", reweight="cow=2", cross_steps=0.0)
    assert "reweight has no effect with cross_steps 0" in warning
    assert warnings("prompt-to-prompt", reweight="cow=2") == []


def test_a_reference_that_is_not_read_to_its_end(warnings):
    told = warnings("diffedit", reference="a cow " * 200, maps=1)
    assert [warning for warning in told if "the reference has more than" in warning]
    assert not [warning for warning in warnings("diffedit", reference="a barn", maps=1) if "reference" in warning]


def test_a_first_step_that_comes_to_nothing(warnings):
    [warning] = warnings("masactrl", from_step=3)
    assert "from_step 3 of 50 steps is less than half a step of 4" in warning
    assert warnings("masactrl") == warnings("masactrl", from_step=7) == []
