"""UniTune's dial: the curve that its page shows."""

from __future__ import annotations

from itertools import pairwise

import pytest

from paintover.editors.dial import Dial, dial
from paintover.editors.unitune import UniTune, UniTuneKnobs
from paintover.models.bundle import load


def test_its_ends_and_its_middle():
    assert dial(0.0, 7.5) == Dial(guidance=11.25, left=0.0, interpolation=0.0, share=0.4)
    assert dial(0.5, 7.5) == Dial(guidance=7.5, left=0.118921, interpolation=1.0, share=0.7)
    assert dial(1.0, 7.5) == Dial(guidance=5.0, left=0.4, interpolation=1.0, share=1.0)


@pytest.mark.parametrize("usual", [1.0, 2.0, 7.5, 32.0])
def test_each_of_the_four_moves_one_way_and_one_of_them_always_moves(usual):
    turned = [dial(n / 100, usual) for n in range(101)]
    for before, after in pairwise(turned):
        assert after.guidance <= before.guidance
        assert after.left >= before.left
        assert after.interpolation >= before.interpolation
        assert after.share >= before.share
        assert before != after
    assert min(one.guidance for one in turned) >= 1


def test_it_leaves_of_the_picture_what_it_leaves_in_stable_diffusion():
    """The built-in model's schedule ends in far more noise: at 0.9 of its steps nothing of the picture would be left."""
    bundle, editor = load("builtin", "cpu"), UniTune()
    strengths = [editor.settled(UniTuneKnobs(fidelity=f), bundle).strength for f in (1, 0.75, 0.5, 0.25, 0)]
    assert strengths == pytest.approx([0.36, 0.45, 0.55, 0.69, 1], abs=0.01)
    assert strengths[-1] == 1
    level = bundle.denoiser.alphas_cumprod[round(1000 * strengths[2]) - 1].sqrt()
    assert level == pytest.approx(0.12, abs=0.01)
