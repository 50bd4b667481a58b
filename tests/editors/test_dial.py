"""UniTune's dial: the curve that its page shows."""

from __future__ import annotations

from itertools import pairwise

import pytest

from paintover.editors.dial import Dial, dial


def test_its_ends_and_its_middle():
    assert dial(0.0, 7.5) == Dial(guidance=15.0, strength=1.0, interpolation=0.0, share=0.5)
    assert dial(0.5, 7.5) == Dial(guidance=7.5, strength=0.9, interpolation=1.0, share=1.0)
    assert dial(1.0, 7.5) == Dial(guidance=3.75, strength=0.6, interpolation=1.0, share=1.0)


@pytest.mark.parametrize("usual", [1.0, 2.0, 7.5, 32.0])
def test_each_of_the_four_moves_one_way_and_one_of_them_always_moves(usual):
    turned = [dial(n / 100, usual) for n in range(101)]
    for before, after in pairwise(turned):
        assert after.guidance <= before.guidance
        assert after.strength <= before.strength
        assert after.interpolation >= before.interpolation
        assert after.share >= before.share
        assert before != after
    assert min(one.guidance for one in turned) >= 1
