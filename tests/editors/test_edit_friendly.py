"""`edit-friendly`: identities, and the published sampler as a plain loop."""

from __future__ import annotations

import pytest
import torch

from paintover.conditions.prompt import prompts
from paintover.editors.edit_friendly import EditFriendly, EditFriendlyKnobs
from paintover.editors.editor import Context
from paintover.engine.engine import Engine
from paintover.models.bundle import Bundle, load
from paintover.orders.order import request_for
from paintover.path.start import noise

SHAPE = (1, 192, 8, 8)
STEPS = 10
SOURCE = noise(3, SHAPE) * 0.7


@pytest.fixture(scope="module")
def bundle(tiny_bundle) -> Bundle:
    return load(tiny_bundle, "cpu")


def edited(bundle: Bundle, words: str = "a cow", **knobs):
    request = request_for(instruction=words, source_prompt="a field", editor="edit-friendly", seed=2, steps=STEPS)
    context = Context(bundle, request, EditFriendlyKnobs(**knobs), SHAPE, SOURCE)
    engine, editor = Engine(bundle.denoiser), EditFriendly()
    prepared = engine.result(engine.add(editor.prepare(context)))
    return engine.result(engine.add(editor.path(context, prepared))), prepared


@pytest.mark.parametrize("skip", [0, 18, 49])
def test_the_source_prompt_as_caption_is_the_picture(skip, bundle):
    end, _ = edited(bundle, "a field", guidance=3.5, skip=skip)
    torch.testing.assert_close(end, SOURCE, rtol=0, atol=1e-4)


def test_more_is_skipped_less_is_changed(bundle):
    changes = [(edited(bundle, skip=skip)[0] - SOURCE).abs().mean().item() for skip in (0, 20, 40)]
    assert changes == sorted(changes, reverse=True)
    assert changes[-1] > 0


@torch.no_grad()
def test_it_is_the_published_sampler(bundle):
    """DDIM's formula at eta = 1 with z of the inversion, from x at the skipped step on; the last z as we keep it."""
    end, prepared = edited(bundle, guidance=5.0, skip=20)
    wanted, null = prompts(bundle.text, ["a cow", ""])
    abar = bundle.denoiser.alphas_cumprod.double()
    steps = Context(bundle, request_for(instruction="x", steps=STEPS), None, SHAPE).schedule.steps(STEPS, eta=1.0)
    x = prepared["x_SCHW"][4:5].double()
    for n in range(4, STEPS):
        t = steps[n].t
        answers = [bundle.denoiser(x.float(), torch.tensor([t]), c.tokens_BLD, c.pooled_BD).double() for c in (null, wanted)]
        eps = answers[0] + 5.0 * (answers[1] - answers[0])
        a, before = abar[t], abar[steps[n + 1].t] if n + 1 < STEPS else abar[0]
        variance = (1 - before) / (1 - a) * (1 - a / before)
        x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
        z = prepared["added_SCHW"][n : n + 1].double() / variance.sqrt()
        x = before.sqrt() * x0 + (1 - before - variance).sqrt() * eps + variance.sqrt() * z
    torch.testing.assert_close(end.double(), x, rtol=1e-4, atol=1e-4)
