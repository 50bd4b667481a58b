"""A word that means nothing yet: one token that the text encoder knows, and has hardly ever read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from weakref import WeakKeyDictionary

from paintover.conditions.alone import says
from paintover.errors import KnobError
from paintover.models.text import TextEncoder

_chosen: WeakKeyDictionary[TextEncoder, str] = WeakKeyDictionary()


def choose(text: TextEncoder) -> str:
    """The encoder's rarest word, always the same one: not chosen by what it will stand beside, since one tuning serves many
    captions. Raises KnobError where it knows none."""
    if text not in _chosen:
        word = next(text.rare(), None)
        if word is None:
            raise KnobError("this model's text encoder knows no rare word; name one with --rare-token")
        _chosen[text] = word
    return _chosen[text]


def check(text: TextEncoder, word: str, beside: Mapping[str, str]) -> None:
    """Raises KnobError unless the word is one token to the encoder, and no word of the texts that it will stand beside.

    beside: those texts, by what each is called. Letters and digits only: what a vocabulary has no piece for is a token, too,
    the one for all that is unknown.
    """
    if not re.fullmatch("[A-Za-z0-9]+", word):
        raise KnobError(f"rare_token {word!r} is not one word of letters and digits; name one, or leave it out")
    if text.count(word) != 1:
        raise KnobError(
            f"rare_token {word!r} is {text.count(word)} tokens to this model; name a word that is one, or leave it out"
        )
    for name, said in beside.items():
        if says(word, said):
            raise KnobError(
                f"the {name} says {word!r}, the word that stands for the picture; name another one with --rare-token"
            )
