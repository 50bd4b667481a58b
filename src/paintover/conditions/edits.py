"""Several edits in one line of words: "a straw hat; -glasses (scale=7)" adds one thing and takes another away."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from paintover.errors import RequestError

_SETTINGS = re.compile(r"\(([^()]*=[^()]*)\)$")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One of several edits: what it shows, whether that is taken away, and its own settings where it has some."""

    text: str
    away: bool
    settings: Mapping[str, float]


def several(words: str, bounds: Mapping[str, tuple[float, float]]) -> list[Wanted]:
    """Edits set apart by ";". A leading "-" takes away; "(name=number, ...)" at the end holds settings of that edit alone.

    `bounds` are the settings that there are and what they may be. Parentheses without "=" belong to the words.
    Raises RequestError for an edit without words, and for settings that are unknown, no numbers, or out of bounds.
    """
    parts = [part.strip() for part in words.split(";")]
    if len(parts) > 1 and not parts[-1]:
        parts.pop()  # a last ";" ends an edit
    return [_one(part, n, bounds) for n, part in enumerate(parts, start=1)]


def _one(part: str, n: int, bounds: Mapping[str, tuple[float, float]]) -> Wanted:
    said = _SETTINGS.search(part)
    settings = {} if said is None else _settings(said[1], bounds)
    text = (part if said is None else part[: said.start()]).strip()
    away = text.startswith("-")
    text = text.removeprefix("-").strip()
    if not text:
        raise RequestError(f'edit {n} says nothing; write edits such as "a hat; -glasses", "-" before what is to go')
    return Wanted(text, away, settings)


def _settings(said: str, bounds: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    settings = {}
    for setting in said.split(","):
        name, _, value = (word.strip() for word in setting.partition("="))
        name = name.replace("-", "_")
        takes = ", ".join(f"{name}={low:g}..{high:g}" for name, (low, high) in bounds.items())
        if name not in bounds:
            raise RequestError(f"an edit has no setting {name!r}; it takes ({takes})")
        low, high = bounds[name]
        try:
            settings[name] = float(value)
        except ValueError:
            settings[name] = float("nan")
        if not low <= settings[name] <= high:
            raise RequestError(f"an edit's {name} is {value!r}; it takes ({takes})")
    return settings
