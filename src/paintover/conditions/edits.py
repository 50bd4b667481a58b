"""Several edits in one line of words: "a straw hat; -glasses (scale=7)" adds one thing and takes another away."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from paintover.errors import RequestError

_SETTINGS = re.compile(r"\(([^()]*=[^()]*)\)$")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One of several edits: what it shows, whether that is taken away, and its own settings where it has some."""

    text: str
    away: bool
    settings: Mapping[str, float]


class Bounds(NamedTuple):
    """What a setting may be, and whether it is a whole number."""

    low: float
    high: float
    whole: bool = False


def several(words: str, bounds: Mapping[str, Bounds]) -> list[Wanted]:
    """Edits set apart by ";". A leading "-" takes away; "(name=number, ...)" at the end holds settings of that edit alone.

    `bounds` are the settings that there are and what they may be. Parentheses that hold none belong to the words.
    Raises RequestError for an edit without words, for settings that are unknown, no numbers, or out of bounds, and for what
    looks like settings but stands where none are read.
    """
    parts = [part.strip() for part in words.split(";")]
    if len(parts) > 1 and not parts[-1]:
        parts.pop()  # a last ";" ends an edit
    return [_one(part, n, bounds) for n, part in enumerate(parts, start=1)]


def _one(part: str, n: int, bounds: Mapping[str, Bounds]) -> Wanted:
    said = _SETTINGS.search(part)
    settings = {} if said is None else _settings(said[1], bounds)
    text = (part if said is None else part[: said.start()]).strip()
    away = text.startswith("-")
    text = text.removeprefix("-").strip()
    if not re.search(r"\w", text):
        raise RequestError(f'edit {n} says nothing; write edits such as "a hat; -glasses", "-" before what is to go')
    if _misplaced(text, bounds):
        raise RequestError(
            f"edit {n} is {part!r}, whose settings cannot be read; write them last, in one pair of parentheses: "
            f'"a hat (name=number, name=number)", with {_takes(bounds)}'
        )
    return Wanted(text, away, settings)


def _misplaced(text: str, bounds: Mapping[str, Bounds]) -> bool:
    """Whether words hold a setting: "scale=7", "(size=7)", "(scale 7"."""
    names = "|".join(name.replace("_", "[-_ ]?") for name in bounds)
    patterns = (rf"\b({names})\s*=", r"\([^()]*=", rf"\(\s*({names})\b[\s:]*-?[\d.]")
    return any(re.search(pattern, text, re.IGNORECASE) for pattern in patterns)


def _settings(said: str, bounds: Mapping[str, Bounds]) -> dict[str, float]:
    settings: dict[str, float] = {}
    for setting in said.split(","):
        name, _, value = (word.strip() for word in setting.partition("="))
        name = name.replace("-", "_")
        if name not in bounds:
            raise RequestError(f"an edit has no setting {name!r}; it takes ({_takes(bounds)})")
        if name in settings:
            raise RequestError(f"an edit's {name} is said twice; say it once")
        low, high, whole = bounds[name]
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not low <= number <= high or (whole and not number.is_integer()):
            kind = ", but is a whole number" if whole else ""
            raise RequestError(f"an edit's {name} is {value!r}{kind}; it takes ({_takes(bounds)})")
        settings[name] = number
    return settings


def _takes(bounds: Mapping[str, Bounds]) -> str:
    return ", ".join(f"{name}={low:g}..{high:g}" for name, (low, high, _) in bounds.items())
