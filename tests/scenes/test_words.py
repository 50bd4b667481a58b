"""The world's language: every phrasing can be said, and what is held out is never said in training."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from paintover.scenes import words
from paintover.scenes.ambiguous import AMBIGUOUS
from paintover.scenes.assets import WORLD, Stamp
from paintover.scenes.edits import KINDS
from paintover.scenes.looks import LOOKS, MOODS
from paintover.scenes.scene import COLOURS, PLAIN, Backdrop, Object, Scene

TOLD = {"a": "orange", "b": "apple", "c": "red", "w": "on the left", "p": "a beach"}
SPOKEN = [kind for kind in (*KINDS, *AMBIGUOUS) if kind != "which"]  # which speaks as remove, replace and recolour do
DRESS = re.compile(r"^(please|could you|can you|now) |,? please$|\?$|\.$")


def _undressed(text: str) -> str:
    text = text.lower()
    while (bare := DRESS.sub("", text)) != text:
        text = bare
    return text


def _said(kind, split, draws=400):
    rng = np.random.default_rng(0)
    return [words.instruction(kind, rng, split, **TOLD) for _ in range(draws)]


def _formatted(phrase):
    return _undressed(phrase.replace("a {b}", "an {b}").format(**TOLD))


def test_every_kind_has_words():
    assert set(words.PHRASES) == set(SPOKEN)


@pytest.mark.parametrize("kind", SPOKEN)
def test_every_phrasing_can_be_said(kind):
    for phrase in words.PHRASES[kind]:
        assert not re.search(r"[{}]", phrase.format(**TOLD))
        assert set(re.findall(r"{(\w)}", phrase)) <= set(TOLD)
    assert len({phrase.lower() for phrase in words.PHRASES[kind]}) == len(words.PHRASES[kind])


@pytest.mark.parametrize("kind", SPOKEN)
def test_held_out_phrasings_are_never_said_in_training(kind):
    training = {_formatted(p) for p in words.PHRASES[kind][: -words.HELD_OUT]}
    held_out = {_formatted(p) for p in words.PHRASES[kind][-words.HELD_OUT :]}
    assert not training & held_out
    assert not held_out & {_undressed(text) for text in _said(kind, "train")}
    assert {_undressed(text) for text in _said(kind, "held_out", 60)} == held_out  # all of them, and no typos
    assert training <= {_undressed(text) for text in _said(kind, "train")}


def test_no_two_kinds_share_a_phrasing():
    said = [phrase for phrases in words.PHRASES.values() for phrase in phrases]
    assert len(said) == len(set(said))


@pytest.mark.parametrize(("noun", "said"), [("apple", "an apple"), ("orange", "an orange"), ("cow", "a cow")])
def test_articles(noun, said):
    assert words.article(noun) == said
    texts = [words.instruction("replace", np.random.default_rng(n), "held_out", a="pear", b=noun) for n in range(20)]
    assert any(said in text.lower() for text in texts)
    assert not any(f"{'a' if said.startswith('an') else 'an'} {noun}" in text.lower() for text in texts)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_meant_is_said_as_training_says_it(kind):
    """The denoiser's own text encoder is told it where the edit head is left out."""
    assert words.MEANT[kind] in words.PHRASES[kind][: -words.HELD_OUT]
    assert words.meant(kind, **TOLD) == words.MEANT[kind].replace("a {b}", "an {b}").format(**TOLD)


def test_meanings():
    assert words.meant("replace", a="cow", b="orange") == "replace the cow with an orange"
    assert words.meant("add", b="cow", w="at the top") == "add a cow at the top"
    assert words.meant("recolour", a="apple", c="red") == "paint the apple red"
    assert words.meant("place", p="plain blue") == "change the background to plain blue"
    assert len({words.meant(kind, **TOLD) for kind in KINDS}) == len(KINDS)


APPLE, COW = (Stamp(cls, cls, Image.new("RGBa", (8, 8))) for cls in ("apple", "cow"))
GRAPES = Stamp("grapes", "grapes", Image.new("RGBa", (8, 8)))


def _scene(label, *stamps, look=None, colour=None):
    return Scene(Backdrop(label, None), tuple(Object(stamp, 0.5, 0.5, 0.4, colour=colour) for stamp in stamps), look)


@pytest.mark.parametrize(
    ("scene", "said"),
    [
        (_scene("meadow", COW), "a cow in a meadow"),
        (_scene("plain blue", APPLE, COW), "an apple and a cow on a plain blue background"),
        (_scene(None, COW, APPLE, GRAPES, look="night"), "a cow, an apple and grapes at night"),
        (_scene("wood", APPLE, look="darker", colour="red"), "a red apple on wood in dim light"),
        (_scene("wood", look="sepia"), "a wooden wall in sepia"),
        (_scene("plain grey"), "a plain grey background"),
        (_scene(None), "something"),
    ],
)
def test_captions(scene, said):
    assert words.caption(scene) == said
    assert words.caption(scene, "a photo of ") == f"a photo of {said}"


def test_a_caption_tells_every_look():
    """Or a caption could not ask for it."""
    assert set(words.LOOK_WORDS) == {*LOOKS, *MOODS}
    assert len(set(words.LOOK_WORDS.values())) == len(LOOKS) + len(MOODS)


def test_openings():
    assert {words.opening(np.random.default_rng(n)) for n in range(40)} == {"", "a photo of ", "a picture of ", "there is "}


def test_every_place_has_words():
    for label in json.loads(WORLD.read_text())["places"]:
        assert words.place_words(label) in words.PLACE_WORDS.values()
        assert label in words.CAPTION_PLACE
    assert set(PLAIN) & set(COLOURS)
    assert words.place_words("plain blue") == "plain blue"
