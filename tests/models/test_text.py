from __future__ import annotations

import pytest
import torch

from paintover.errors import ModelError
from paintover.models import SentenceText, load

TEXTS = ["add a cow", "", "Replace the apple, please, with a rather long-winded lemon that goes on and on and on"]


def test_clip_text_is_what_diffusers_tells_its_unet(tiny_bundle):
    from diffusers import StableDiffusionPipeline

    folder = tiny_bundle("text-to-image")
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    expected, null = pipeline.encode_prompt(TEXTS, "cpu", 1, True)
    text = load(folder, device="cpu").text
    tokens, pooled = text.encode(TEXTS)
    assert pooled is None
    assert tokens.shape == (3, text.length, text.width) == (3, 77, 32)
    torch.testing.assert_close(tokens, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(text.encode([""])[0], null[:1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["text-to-image", "builtin"])
def test_says_which_texts_are_cut(kind, tiny_bundle):
    """A text is cut just where words at its end change nothing."""
    text = load(tiny_bundle(kind), device="cpu").text
    assert [text.cuts(words) for words in ("", "a cow", "a " * 500)] == [False, False, True]
    fits = max(n for n in range(1, text.length + 1) if not text.cuts("a " * n))
    last, beyond = text.encode(["a " * (fits - 1) + "b", "a " * fits])[0]
    assert not torch.equal(last, beyond)
    last, beyond = text.encode(["a " * fits + "b", "a " * (fits + 1)])[0]
    assert torch.equal(last, beyond)


@pytest.fixture(scope="module")
def sentence(tiny_bundle):
    return load(tiny_bundle("builtin"), device="cpu").text


def test_sentence_text_is_berts_states_and_their_mean(sentence):
    text, text.token_scale = SentenceText(sentence.model, sentence.tokenizer, length=32), 2.5
    tokens, pooled = text.encode(["add a cow"])
    ids = text.tokenizer.encode("add a cow").ids[:9]  # [CLS] a ##d ##d a c ##o ##w [SEP]
    states = text.model(torch.tensor([ids])).last_hidden_state[0]
    torch.testing.assert_close(tokens[0, :9], 2.5 * states, atol=1e-5, rtol=0)
    assert not tokens[0, 9:].any()
    mean = states.mean(dim=0)
    torch.testing.assert_close(pooled[0], mean / mean.norm() * 32**0.5, atol=1e-5, rtol=0)


def test_a_text_among_others_is_the_text_alone(sentence):
    tokens, pooled = sentence.encode(TEXTS)
    assert tokens.shape == (3, 32, 32)
    assert not tokens.requires_grad
    for row, text in enumerate(TEXTS):
        alone, alone_pooled = sentence.encode([text])
        torch.testing.assert_close(tokens[row : row + 1], alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(pooled[row : row + 1], alone_pooled, atol=1e-5, rtol=0)
    assert tokens[2].any(dim=-1).all(), "the long text fills all 32 tokens"


def test_a_length_beyond_the_models_positions_is_refused(sentence):
    with pytest.raises(ModelError, match="64 positions cannot have length 65"):
        SentenceText(sentence.model, sentence.tokenizer, length=65)
