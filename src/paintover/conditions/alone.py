"""A word that stands alone in a text: "cow" in "A Cow, on grass", not in "cowboy"."""

from __future__ import annotations

import re


def says(word: str, text: str) -> bool:
    """Whether the text says the word, in any case, and not as a part of another one."""
    return re.search(alone(word), text, re.IGNORECASE) is not None


def alone(word: str) -> str:
    """A pattern for that, to be read with re.IGNORECASE. "*" is no word, and may stand beside one."""
    before = r"(?<!\w)" if re.match(r"\w", word[0]) else ""
    after = r"(?!\w)" if re.match(r"\w", word[-1]) else ""
    return f"{before}{re.escape(word)}{after}"
