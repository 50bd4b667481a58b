from __future__ import annotations

import pytest
import torch

from paintover.conditions.words import align, find, refined, replaced, tokens, weights, words
from paintover.errors import KnobError
from paintover.models.bundle import load
from paintover.models.tiny import tiny

TEXTS = ["a cow", "A  cow, in Müller's snow-covered meadow!", "", "...", "don't stop", "x " * 100]


@pytest.fixture(scope="module", params=["text-to-image", "builtin"])
def encoder(request, tmp_path_factory):
    """CLIP's pieces and BERT's, one for each letter."""
    return load(tiny(tmp_path_factory.mktemp(request.param), request.param), "cpu").text


@pytest.mark.parametrize("text", TEXTS)
def test_words_and_their_tokens_cover_what_is_read(encoder, text):
    places = [place for word in tokens(encoder, text) for place in word]
    assert places == list(range(1, 1 + encoder.count(text)))


@pytest.mark.parametrize("text", TEXTS[:2])
def test_tokens_of_a_word_are_its_letters(encoder, text):
    """Against the tokenizer's own offsets."""
    backend = getattr(encoder.tokenizer, "backend_tokenizer", encoder.tokenizer)
    offsets = backend.encode(text).offsets
    for word, places in list(zip(words(text), tokens(encoder, text), strict=True))[:6]:  # all that the shorter one reads
        assert text[offsets[places[0]][0] : offsets[places[-1]][1]].lower() == word


def test_the_builtins_own_pieces():
    encoder = load("builtin", "cpu").text
    assert tokens(encoder, "a cow in Müller's meadow") == [[1], [2], [3], [4, 5, 6, 7, 8, 9, 10], [11]]
    assert find(encoder, "a cow, a cow", ["Cow"], "blend") == [2, 5]


def test_words_that_are_not_there_are_told(encoder):
    with pytest.raises(KnobError, match="blend: the word 'horse' is not in the caption 'a cow'; its words are: a, cow"):
        find(encoder, "a cow", ["horse"], "blend")
    with pytest.raises(KnobError, match="its words are: none"):
        find(encoder, "", ["horse"], "blend")
    with pytest.raises(KnobError, match="beyond"):
        find(encoder, "x " * 100 + "horse", ["horse"], "blend")


def test_weights_of_words(encoder):
    got = weights(encoder, "a cow in snow", " snow=2, a cow=-0.5,", "reweight")
    expected = torch.ones(encoder.length)
    expected[1:5] = -0.5
    expected[7:11] = 2
    assert torch.equal(got, expected)
    assert torch.equal(weights(encoder, "a cow", "", "reweight"), torch.ones(encoder.length))


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ("snow", "cannot read 'snow'"),
        ("snow=inf", "cannot read 'snow=inf'"),
        ("snow=1e300", "'snow=1e300' is out of bounds; a weight is from -100 to 100"),
        ("snow=1e30", "out of bounds"),
        ("snow=-100.5", "out of bounds"),
        (",,,", "names no words"),
        ("snow=2, snow=3", "'snow=3' names a word that has a weight already"),
        ("a cow=2,cow=2", "'cow=2' names a word that has a weight already"),
    ],
)
def test_weights_that_make_no_sense_are_refused(encoder, told, says):
    with pytest.raises(KnobError, match=f"^reweight: .*{says}"):
        weights(encoder, "a cow in snow", told, "reweight")


def test_equal_captions_correspond_token_by_token(encoder):
    for mode in ("replace", "refine", "auto"):
        alignment = align(encoder, "a cow in snow", "A cow in snow", mode)
        assert torch.equal(alignment.mapper_LL, torch.eye(encoder.length))
        assert alignment.takes_L.min() == 1


def test_a_word_swapped_for_a_longer_one_shares_its_maps(encoder):
    """start | a | c o w | in | end becomes start | a | s h e e p | in | end."""
    alignment = replaced(encoder, "a cow in", "a sheep in")
    other = torch.zeros(encoder.length)
    other[:8] = torch.tensor([1.0, 2, 3, 4, 8, 5, 6, 7])  # start, a, c o w, i n, end
    got = alignment.take(other, torch.full_like(other, 99.0))
    assert got[:10].tolist() == pytest.approx([1, 2, *[15 / 5] * 5, 5, 6, 7])
    assert got[10:].abs().max() == 0


def test_new_words_keep_their_own_and_the_others_move(encoder):
    alignment = refined(encoder, "a cow in snow", "a brown cow in white snow")
    other = torch.arange(encoder.length, dtype=torch.float32)
    got = alignment.take(other, torch.full_like(other, -1.0))
    #                        start a  b r o w n  c  o  w  i  n  w h i t e  s  n  o  w   end
    assert got[:22].tolist() == [0, 1, *[-1] * 5, 2, 3, 4, 5, 6, *[-1] * 5, 7, 8, 9, 10, 11]
    assert torch.equal(got[22:], other[22:])  # padding stays where it is


def test_auto_is_replace_for_as_many_words(encoder):
    assert torch.equal(align(encoder, "a cow", "a pig", "auto").mapper_LL, replaced(encoder, "a cow", "a pig").mapper_LL)
    assert align(encoder, "a cow", "a red cow", "auto").takes_L.min() == 0
    with pytest.raises(KnobError, match="or use --mode refine"):
        align(encoder, "a cow", "a red cow", "replace")


def test_captions_longer_than_the_encoder_reads(encoder):
    for mode in ("replace", "refine"):
        alignment = align(encoder, "x " * 100, "y " * 100, mode)
        assert alignment.mapper_LL.isfinite().all()
