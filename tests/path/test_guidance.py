from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paintover.errors import KnobError
from paintover.path.guidance import Guided, classifier_free, dual, plain, prompt_guidance
from paintover.path.predict import Condition
from paintover.path.schedule import Step

STEP = Step(0, 500, 480, 0.5, 0.6)
X = torch.linspace(-1, 1, 48, dtype=torch.float64).view(1, 3, 4, 4)
scales = st.floats(-50, 50) | st.sampled_from([0.0, 1.0, 7.5, 1.5])


def condition(seed: int, image: bool = False) -> Condition:
    draw = torch.Generator().manual_seed(seed)
    return Condition(
        torch.randn(1, 3, 5, generator=draw),
        torch.randn(1, 5, generator=draw),
        torch.randn(1, 3, 4, 4, generator=draw) if image else None,
    )


EDIT, BASE, NULL = condition(1, image=True), condition(2, image=True), condition(3)


def e(x_BCHW: torch.Tensor, c: Condition) -> torch.Tensor:
    """A denoiser that hears all of the condition."""
    image = 0 if c.image_BCHW is None else c.image_BCHW
    return torch.sin(3 * x_BCHW + image + c.tokens_BLD.sum() + c.pooled_BD.std())


def ask(guided: Guided) -> tuple[torch.Tensor, int]:
    """The guided noise, and how many evaluations it cost."""
    path = guided.noise(X, STEP)
    asked = next(path)
    with pytest.raises(StopIteration) as end:
        path.send([e(p.x_BCHW, p.condition) for p in asked])
    assert all(p.t == STEP.t for p in asked)
    return end.value.value, len(asked)


@given(g=scales)
def test_classifier_free(g):
    eps, cost = ask(classifier_free(EDIT, NULL, g))
    torch.testing.assert_close(eps, e(X, NULL) + g * (e(X, EDIT) - e(X, NULL)), rtol=1e-9, atol=1e-9)
    assert cost == (1 if g in (0, 1) else 2)


@given(g_text=scales, g_image=scales)
def test_dual_is_the_papers_formula(g_text, g_image):
    eps, cost = ask(dual(EDIT, NULL, g_text, g_image))
    v, nothing = Condition(NULL.tokens_BLD, NULL.pooled_BD, EDIT.image_BCHW), NULL
    expected = e(X, nothing) + g_image * (e(X, v) - e(X, nothing)) + g_text * (e(X, EDIT) - e(X, v))
    torch.testing.assert_close(eps, expected, rtol=1e-9, atol=1e-9)
    assert cost == (g_text != 0) + (g_image != g_text) + (g_image != 1)


def test_dual_identities():
    v = Condition(NULL.tokens_BLD, NULL.pooled_BD, EDIT.image_BCHW)
    for g_text, g_image, c in [(1, 1, EDIT), (0, 1, v), (0, 0, NULL)]:
        eps, cost = ask(dual(EDIT, NULL, g_text, g_image))
        assert cost == 1
        assert torch.equal(eps, e(X, c))


def test_dual_of_the_empty_instruction_hears_the_picture_alone():
    twin = Condition(NULL.tokens_BLD.clone(), NULL.pooled_BD.clone(), EDIT.image_BCHW)
    eps, cost = ask(dual(twin, NULL, 7.3, 1.0))
    assert cost == 1
    assert torch.equal(eps, e(X, twin))


@given(w=scales)
def test_prompt_guidance(w):
    """Identity 20: with base = edit it is plain, for every w; with base = null it is classifier-free."""
    same, cost = ask(prompt_guidance(EDIT, condition(1, image=True), w))
    assert cost == 1
    assert torch.equal(same, ask(plain(EDIT))[0])
    assert torch.equal(ask(prompt_guidance(EDIT, NULL, w))[0], ask(classifier_free(EDIT, NULL, w))[0])
    other = e(X, BASE) + w * (e(X, EDIT) - e(X, BASE))
    torch.testing.assert_close(ask(prompt_guidance(EDIT, BASE, w))[0], other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_scale_must_be_finite(bad):
    with pytest.raises(KnobError, match="finite"):
        classifier_free(EDIT, NULL, bad)
    with pytest.raises(KnobError, match="image guidance"):
        dual(EDIT, NULL, 1.0, bad)
