"""Instructions by templates: how each kind of edit is said, and what a caption says after it."""

from __future__ import annotations

import re

# {i} the picture to be edited, {b} what shall be in it, {a} what is in it, {s} what it shall be like. The first of each list is
# what a language model is told to say in words of its own.
PHRASES: dict[str, tuple[str, ...]] = {
    "add": (
        "add {b} to {i}", "put {b} into {i}", "place {b} in {i}", "insert {b} into {i}", "I want {b} in {i}",
        "show {b} in {i}", "include {b} in {i}", "there should be {b} in {i}", "let {b} appear in {i}",
        "can you add {b} to {i}?", "make {i} have {b} in it", "draw {b} into {i}", "{i} with {b}", "bring {b} into {i}",
    ),
    "remove": (
        "remove {a} from {i}", "take {a} out of {i}", "delete {a} from {i}", "erase {a} from {i}", "get rid of {a} in {i}",
        "{i} without {a}", "I don't want {a} in {i}", "make {a} disappear from {i}", "cut {a} out of {i}",
        "there should be no {a} in {i}", "please clear {a} away from {i}",
    ),
    "replace": (
        "replace {a} with {b} in {i}", "replace {a} in {i} with {b}", "swap {a} for {b} in {i}", "turn {a} in {i} into {b}",
        "change {a} in {i} to {b}", "put {b} where {a} is in {i}", "{b} instead of {a} in {i}",
        "in {i}, exchange {a} for {b}", "use {b} in place of {a} in {i}", "substitute {b} for {a} in {i}",
        "I would rather see {b} than {a} in {i}",
    ),
    "add-remove": (
        "add {b} and remove {a} from {i}", "remove {a} from {i} and add {b}", "in {i}, take {a} away and put in {b}",
        "{i} with {b} but without {a}", "delete {a} from {i}, then insert {b}", "put {b} into {i} and get rid of {a}",
        "I want {b} in {i}, and no {a}", "erase {a} and show {b} in {i}",
    ),
    "style": (
        "change {i} to the style of {s}", "make {i} look like {s}", "give {i} the style of {s}", "{i} in the style of {s}",
        "apply the style of {s} to {i}", "use the mood of {s} for {i}", "transfer the style of {s} to {i}",
        "take the look of {s} for {i}", "restyle {i} after {s}", "paint {i} as {s} is painted",
    ),
    "fit": (
        "fit {i} to {s}", "make {i} fit {s}", "match {i} to {s}", "adapt {i} to {s}", "let {i} look as {s} sounds",
        "change {i} so that it fits {s}", "bring the mood of {s} into {i}", "adjust {i} to {s}", "let {i} go with {s}",
        "I am listening to {s}; make {i} go with it",
    ),
}  # fmt: skip
# Kinds of instructions: what InstructAny2Pix is trained on, and what it is shown to do.
KINDS = ("add-audio", "add-image", "add-several", "replace", "remove", "add-remove", "style", "fit")
PHRASE_OF = {"add-audio": "add", "add-image": "add", "add-several": "add"}

_ARTICLES = r"(?:an?|the|some|one|two|three|several|many)"
_ARTICLE = re.compile(rf"^{_ARTICLES}\s+", re.IGNORECASE)
_OPENING = re.compile(
    r"^(?:an?|the)?\s*(?:image|photo|photograph|picture|painting|drawing|sound|sounds|recording|noise|music)\s+of\s+",
    re.IGNORECASE,
)
_MASSES = ("rain", "snow", "thunder", "wind", "water", "fire", "music", "fog", "smoke", "grass", "sand", "traffic", "applause")
_MUSIC = (
    "music", "song", "songs", "melody", "tune", "jazz", "rock", "techno", "waltz", "symphony", "orchestra", "choir", "ambient",
    "mood",
)  # fmt: skip
_PLACED = r"(?:on|in|at|by|under|near|beside|behind|above|over|before|inside|against)"
JOINED = re.compile(
    rf"\b(?:{_PLACED}|with|and|or|from|to)\b", re.IGNORECASE
)  # a caption with one of these says more than a name


def bare(caption: str) -> str:
    """ "an image of an alligator." -> "alligator": without an opening and an article."""
    return _ARTICLE.sub("", _OPENING.sub("", caption.strip().rstrip(".").strip())).strip()


def noun(name: str) -> str:
    """ "alligator" -> "an alligator"; what has an article, is many, or cannot be counted, stays as it is."""
    last = name.split()[-1].lower() if name.split() else ""
    first = name.split()[0].lower() if name.split() else ""
    many = (last.endswith("s") and not last.endswith("ss")) or last in _MASSES or first in _MASSES
    if _ARTICLE.match(name) or many:
        return name
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def heard(caption: str) -> str:
    """What sounds so: "a dog barking loudly" -> "dog"; all of it where it does not say what something does."""
    words = bare(caption).split()
    verb = next((n for n, word in enumerate(words) if n and word.lower().endswith("ing")), len(words))
    name = " ".join(words[:verb])
    return "person" if name.lower() in ("someone", "somebody") else name


def is_mood(caption: str) -> bool:
    """Whether a sound says more of a picture's mood than of a thing: music, weather."""
    return any(speaks_of(caption, word) for word in (*_MUSIC, *_MASSES))


def is_music(caption: str) -> bool:
    """Whether it is no thing at all."""
    return any(speaks_of(caption, word) for word in _MUSIC)


def listed(names: list[str]) -> str:
    """ "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def speaks_of(caption: str, name: str) -> bool:
    """Whether the name stands in the caption, as whole words."""
    return re.search(rf"\b{re.escape(name)}\b", caption, re.IGNORECASE) is not None


def added(caption: str, names: list[str]) -> str:
    """ "a meadow" -> "a meadow with a cow and a dog"."""
    caption = caption.rstrip(". ")
    return f"{caption}{' and ' if ' with ' in caption else ' with '}{listed([noun(name) for name in names])}"


def replaced(caption: str, name: str, by: str) -> str:
    """The first mention of one, with its article, is that of the other."""
    whole = re.compile(rf"\b(?:{_ARTICLES}\s+)?{re.escape(name)}\b", re.IGNORECASE)
    return whole.sub(lambda _: noun(by), caption.rstrip(". "), count=1)


def removed(caption: str, name: str) -> str | None:
    """ "a cow on a meadow" -> "a meadow"; "a table with a bowl" -> "a table". None where no rule says what is left."""
    caption = caption.rstrip(". ")
    thing = rf"(?:{_ARTICLES}\s+)?{re.escape(name)}"
    rules = (
        (rf"\s*,?\s+(?:with|and)\s+{thing}$", ""),
        (rf"\bwith\s+{thing}\s+and\s+", "with "),
        (rf"^{thing}\s+and\s+", ""),
        (rf"\s+and\s+{thing}\b(?=\s+{_PLACED}\b)", ""),
        (rf"^{thing}\s+(?:\w+ing\s+)?{_PLACED}\s+(?=(?:an?|the)\s)", ""),
    )
    for rule, left in rules:
        found, count = re.subn(rule, left, caption, count=1, flags=re.IGNORECASE)
        if count and found.strip() and not speaks_of(found, name):
            return found.strip()
    return None
