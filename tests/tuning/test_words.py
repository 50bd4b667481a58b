"""Words that a text encoder is taught: it reads them as their vectors, and everything else as before."""

from __future__ import annotations

import copy

import pytest
import torch

from paintover.conditions.words import find
from paintover.errors import ModelError
from paintover.models.bundle import Bundle, load
from paintover.models.tiny import tiny
from paintover.tuning.words import vectors, widths, with_words

PLAIN = ["", "a cow", "Zwxy, a Zwx2 and a_zwx", "a " * 100]


@pytest.fixture(scope="module", params=["text-to-image", "builtin", "sdxl"])
def bundle(request, tmp_path_factory) -> Bundle:
    return load(tiny(tmp_path_factory.mktemp("tiny"), request.param), "cpu")


@pytest.fixture
def width(bundle) -> int:
    """Of a word's vectors: of SDXL's two encoders, one behind the other."""
    return sum(widths(bundle.text))


def random(count: int, width: int) -> torch.Tensor:
    return torch.randn((count, width), generator=torch.Generator().manual_seed(count)) / 50


def readers(text) -> list[tuple]:
    return list(text.clips) if hasattr(text, "clips") else [(text.model, text.tokenizer)]


def test_texts_without_the_word_are_read_bit_for_bit_as_before(bundle, width):
    base = bundle.text
    before = [(copy.deepcopy(model.state_dict()), len(tokenizer.get_vocab())) for model, tokenizer in readers(base)]
    taught = with_words(base, {"zwx": random(2, width)})
    taught.encode(["a zwx"])
    for text in PLAIN:
        for one, other in zip(base.encode([text]), taught.encode([text]), strict=True):
            assert one is other is None or torch.equal(one, other)
        assert (base.count(text), base.cuts(text)) == (taught.count(text), taught.cuts(text))
    for (state, length), (model, tokenizer) in zip(before, readers(base), strict=True):
        after = model.state_dict()
        assert state.keys() == after.keys()
        assert all(torch.equal(state[name], after[name]) for name in state)
        assert len(tokenizer.get_vocab()) == length
    assert (base.length, base.width, base.pooled_width) == (taught.length, taught.width, taught.pooled_width)


def test_the_weights_are_shared(bundle, width):
    taught = with_words(bundle.text, {"zwx": random(1, width)})
    for (model, _), (ours, _) in zip(readers(bundle.text), readers(taught._inner), strict=True):
        theirs = {tensor.data_ptr() for tensor in model.parameters()}
        assert {tensor.data_ptr() for tensor in ours.parameters()} == theirs


def test_a_word_of_other_words_vectors_is_read_as_these_words(bundle):
    """The vectors of "pig" stand for "pig", wherever the word is and however it is written."""
    base = bundle.text
    count = base.count("pig")
    taught = with_words(base, {"zwx": vectors(base, "pig", count)})
    assert taught.count("zwx") == count
    for text, same in (("zwx", "pig"), ("A Zwx, on grass", "A pig, on grass"), ("two:zwx", "two:pig")):
        assert taught.count(text) == base.count(same)
        for one, other in zip(taught.encode([text]), base.encode([same]), strict=True):
            assert one is other is None or torch.equal(one, other)


def test_a_word_is_as_many_tokens_as_it_has_vectors(bundle, width):
    base = bundle.text
    taught = with_words(base, {"zwx": random(3, width), "*": random(1, width)})
    assert (taught.count("zwx"), taught.count("*"), taught.count("a zwx a *")) == (3, 1, 2 * base.count("a") + 4)
    assert find(taught, "a zwx on a *", ["*"], "subject") == [1 + taught.count("a zwx on a")]
    fits = (base.length - 2) // 3
    assert [taught.cuts("zwx " * n) for n in (fits, fits + 1)] == [False, True]


def test_the_new_word_is_not_rare(bundle, width):
    rarest = next(bundle.text.rare())
    assert next(with_words(bundle.text, {rarest: random(1, width)}).rare()) != rarest


def test_letters_that_are_others_in_another_case_are_the_word_too(bundle, width):
    """The long s is an s, and the Kelvin sign a k, whatever Python's `lower` makes of them."""
    taught = with_words(bundle.text, {"style9": random(2, width), "\u212aow": random(3, width)})
    assert [taught.count(text) for text in ("style9", "\u017ftyle9", "kow", "KOW")] == [2, 2, 3, 3]


def test_words_are_added_to_words(bundle, width):
    one = with_words(bundle.text, {"zwx": random(1, width), "mtv": random(2, width)})
    two = with_words(one, {"mtv": random(3, width)})
    assert [two.count(word) for word in ("zwx", "mtv")] == [1, 3]
    assert torch.equal(one.encode(["zwx"])[0], two.encode(["zwx"])[0])
    assert one.count("mtv") == 2
    assert with_words(one, {}) is one


def test_gradients_reach_the_vectors_and_nothing_else(bundle, width):
    own = random(2, width).requires_grad_()
    taught = with_words(bundle.text, {"zwx": own})
    tokens, pooled = taught.states(["a zwx"])
    (tokens.square().sum() + (0 if pooled is None else pooled[:, 0].sum())).backward()
    assert all((part.abs().sum(dim=1) > 0).all() for part in own.grad.split(widths(bundle.text), dim=1))
    assert all(weight.grad is None for model, _ in readers(bundle.text) for weight in model.parameters())
    assert not taught.encode(["a zwx"])[0].requires_grad


def test_more_tokens_than_vectors_are_their_mean_and_fewer_are_repeated(bundle):
    base = bundle.text
    four, two, eight = (vectors(base, "wolf", n) for n in (4, 2, 8))  # a token a letter
    torch.testing.assert_close(two, (four[::2] + four[1::2]) / 2)
    torch.testing.assert_close(eight, four.repeat_interleave(2, dim=0))


def test_what_cannot_be_taught_is_refused(bundle, tmp_path, width):
    with pytest.raises(ModelError, match=rf"vectors 1x31, but this model's words are vectors of {width}"):
        with_words(bundle.text, {"zwx": random(1, 31)})
    with pytest.raises(ModelError, match="no letters"):
        with_words(bundle.text, {" ": random(1, width)})
    with pytest.raises(ModelError, match="no word"):
        vectors(bundle.text, "", 1)
    flow = load(tiny(tmp_path / "flow", "flow"), "cpu").text
    with pytest.raises(ModelError, match="cannot be taught"):
        with_words(flow, {"zwx": random(1, 32)})
