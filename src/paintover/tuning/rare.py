"""A word that means nothing yet: one token that the text encoder knows, and has hardly ever read."""

from __future__ import annotations

from collections.abc import Iterable

from paintover.errors import KnobError
from paintover.models.text import TextEncoder


def choose(text: TextEncoder, taken: Iterable[str] = ()) -> str:
    """A rare word of the encoder's vocabulary that none of the texts in `taken` contains."""
    said = " ".join(taken).lower()
    for word in text.rare():
        if word not in said:
            return word
    raise KnobError("the text encoder knows no rare word; name one with --rare-token")


def check(text: TextEncoder, word: str) -> None:
    """Raises KnobError unless the word is one token to the encoder, and stays itself."""
    if not word.strip() or text.count(word) != 1:
        raise KnobError(
            f"rare_token {word!r} is {text.count(word)} tokens to this model; name a word that is one, or leave it out"
        )
