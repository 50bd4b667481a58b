"""What an expressive instruction names, against what it should: of the world's things, in whole words."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Any

from paintover.scenes.edits import Case

JUDGED = ("exact", "right_things", "hallucinated", "words")


def names(text: str, classes: Collection[str]) -> frozenset[str]:
    """The classes that the text names: whole words, in capitals or not. A plural with s counts where it is no class itself."""
    said = set(re.findall(r"[^\W\d_]+", text.casefold()))
    said |= {word[:-1] for word in said if word.endswith("s") and word not in classes}
    return frozenset(said & set(classes))


def judged(text: str, case: Case, classes: Collection[str]) -> dict[str, float]:
    """How many words it has, and, 1 or 0, three judgements.

    exact: the words are `case.meant`'s, but for capitals, spaces and a point at the end. right_things: it names the things
    that `case.meant` names, and no others; nan where that names none, and silence would be right. hallucinated: it names one
    that is not in the picture, and that neither the instruction nor `case.meant` asks for.
    """
    named = names(text, classes)
    there = {thing.cls for thing in case.before.objects} if case.before is not None else set()
    asked = names(case.meant, classes) | names(case.instruction, classes)
    meant = names(case.meant, classes)
    return {
        "exact": float(_plain(text) == _plain(case.meant)),
        "right_things": float(named == meant) if meant else math.nan,
        "hallucinated": float(bool(named - there - asked)),
        "words": float(len(text.split())),
    }


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


def of_each(texts: Collection[tuple[str, Case]], classes: Collection[str]) -> dict[str, list[Any]]:
    """What was judged, by name: a value a case."""
    rows = [judged(text, case, classes) for text, case in texts]
    return {name: [row[name] for row in rows] for name in JUDGED}
