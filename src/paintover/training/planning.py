"""What an instruction is to be about: which picture is edited, what goes, what comes, and what each of them is given by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from paintover.datasets.collection import Medium
from paintover.datasets.mm_inst import clean
from paintover.datasets.sample import RowError
from paintover.training import phrases
from paintover.training.phrases import KINDS

T = TypeVar("T")
_SHORT = 4  # words of a caption that names a thing and nothing else


@dataclass(frozen=True, slots=True)
class Thing:
    """What goes or comes, by name, and the picture or sound that it is given by; None: words."""

    name: str
    medium: Medium | None


@dataclass(frozen=True, slots=True)
class Plan:
    """takes, puts: what goes, and what comes. like: what the picture shall be like, for "style" and "fit". result: the caption
    of what is wanted.
    """

    kind: str
    base: Medium
    result: str
    takes: tuple[Thing, ...] = ()
    puts: tuple[Thing, ...] = ()
    like: Medium | None = None

    @property
    def media(self) -> list[Medium]:
        """All that are spoken of, the picture to be edited first, each once."""
        things = [thing.medium for thing in (*self.takes, *self.puts) if thing.medium is not None]
        return list(dict.fromkeys([self.base, *things, *([] if self.like is None else [self.like])]))


class Planner:
    """Draws plans of a collection's media.

    A picture or sound whose `things` name one thing, or whose caption is short, gives that thing; pictures whose captions say
    more are edited. What is known to be in these is what their `things` say, and every thing that is given elsewhere and that
    their caption names. kinds: those that the collection has everything for, of those that are asked for. Raises RowError
    where it lacks something for one that is asked for by name, or for all.
    """

    def __init__(self, media: Sequence[Medium], kinds: Sequence[str] | None = None) -> None:
        unknown = [kind for kind in kinds or () if kind not in KINDS]
        if unknown:
            raise RowError(f"there is no kind of instruction {unknown[0]!r}; there are {', '.join(KINDS)}")
        pictures = [medium for medium in media if medium.kind == "image"]
        self.moods = [m for m in media if m.kind == "audio" and (shown(m) is None or phrases.is_mood(m.caption))]
        named = [(name, medium) for medium in media if (name := shown(medium)) is not None]
        self.objects: dict[str, list[Medium]] = {}
        for name, medium in named:
            self.objects.setdefault(_key(name), []).append(medium)
        self.bases = [picture for picture in pictures if not _is_thing(picture)] or pictures
        self.inside = {base: self._inside(base) for base in self.bases}
        self.full = [base for base in self.bases if self.inside[base]]
        self.bared = [base for base in self.full if self._removable(base)]
        self.seen = sorted(name for name, of in self.objects.items() if any(m.kind == "image" for m in of))
        self.heard = sorted(name for name, of in self.objects.items() if any(m.kind == "audio" for m in of))
        able = {kind: self._lacks(kind) for kind in (kinds or KINDS)}
        self.kinds = tuple(kind for kind, lacks in able.items() if lacks is None)
        if kinds is None and not self.kinds:
            raise RowError("these captions make no instruction; give a picture to be edited, and things to put into it")
        for kind, lacks in able.items():
            if kinds is not None and lacks is not None:
                raise RowError(f"there is nothing to make {kind!r} of: it takes {lacks}")

    def draw(self, rng: np.random.Generator) -> Plan:
        """Raises RowError where hundreds of draws have no picture or sound but the one that is edited."""
        for _ in range(300):
            plan = self._drawn(rng)
            if len(plan.media) > 1 or plan.kind == "remove":
                return plan
        raise RowError("these captions make no instruction that speaks of more than one picture or sound; give more of them")

    def _drawn(self, rng: np.random.Generator) -> Plan:
        kind = _one(rng, self.kinds)
        if kind == "style":
            base = _one(rng, self.bases)
            like = _one(rng, [other for other in self.bases if other is not base])
            return Plan(kind, base, f"{base.caption.rstrip('. ')} in the style of {like.caption.rstrip('. ')}", like=like)
        if kind == "fit":
            base, like = _one(rng, self.bases), _one(rng, self.moods)
            return Plan(kind, base, f"{base.caption.rstrip('. ')}, in the mood of {like.caption.rstrip('. ')}", like=like)
        if kind.startswith("add-") and kind != "add-remove":
            base = _one(rng, self.bases)
            count = int(rng.integers(2, 4)) if kind == "add-several" else 1
            pool = {"add-audio": self.heard, "add-image": self.seen}.get(kind) or sorted(self.objects)
            names = _some(rng, [name for name in pool if name not in self._own(base)] or pool, count)
            way = {"add-audio": "audio", "add-image": "image"}.get(kind)
            puts = tuple(self._given(name, base, rng, way) for name in names)
            return Plan(kind, base, phrases.added(base.caption, names), puts=puts)
        if kind == "remove":
            base = _one(rng, self.bared)
            name = _one(rng, self._removable(base))
            result = phrases.removed(base.caption, name)
            assert result is not None
            return Plan(kind, base, result, takes=(self._given(name, base, rng),))
        base = _one(rng, self.bared if kind == "add-remove" else self.full)
        name = _one(rng, self._removable(base) if kind == "add-remove" else self.inside[base])
        new = _one(rng, [other for other in sorted(self.objects) if other not in self._own(base)] or sorted(self.objects))
        goes, comes = self._given(name, base, rng), self._given(new, base, rng)
        if kind == "replace":
            return Plan(kind, base, phrases.replaced(base.caption, name, new), (goes,), (comes,))
        left = phrases.removed(base.caption, name)
        assert left is not None
        return Plan(kind, base, phrases.added(left, [new]), (goes,), (comes,))

    def _given(self, name: str, base: Medium, rng: np.random.Generator, way: str | None = None) -> Thing:
        """A thing, by words, a picture or a sound of it; way: "image" or "audio", if there is one."""
        able = [medium for medium in self.objects.get(name, []) if medium is not base]
        kinds = sorted({medium.kind for medium in able if way in (None, medium.kind)})
        chosen = _one(rng, [*kinds, *(["text"] if way is None or not kinds else [])])
        if chosen == "text":
            return Thing(name, None)
        return Thing(name, _one(rng, [medium for medium in able if medium.kind == chosen]))

    def _inside(self, base: Medium) -> list[str]:
        """Names of what is in the picture, that its caption says: there the edit can be said of the caption, too."""
        known = [*map(_key, base.things), *self.objects]
        return [name for name in dict.fromkeys(known) if name and phrases.speaks_of(base.caption, name)]

    def _own(self, base: Medium) -> set[str]:
        return {*self.inside[base], *map(_key, base.things)}

    def _removable(self, base: Medium) -> list[str]:
        return [name for name in self.inside[base] if phrases.removed(base.caption, name) is not None]

    def _lacks(self, kind: str) -> str | None:
        """What a kind needs that is not there; None: nothing."""
        if not self.bases:
            return "a picture to be edited"
        others = set(self.objects) - (self._own(self.bases[0]) if len(self.bases) == 1 else set())
        needs = {
            "add-audio": (self.heard, "a sound of something"),
            "add-image": (self.seen, "a picture of one thing"),
            "add-several": (len(others) > 1, "pictures or sounds of two things"),
            "replace": (self.full and others, "a picture whose caption names what is in it, and something else to put there"),
            "remove": (self.bared, 'a picture whose caption says what is left ("a cow on a meadow")'),
            "add-remove": (
                self.bared and others,
                'a picture whose caption says what is left ("a cow on a meadow"), and a thing',
            ),
            "style": (len(self.bases) > 1, "two pictures to be edited"),
            "fit": (self.moods, "a sound that is no thing's, such as music"),
        }
        there, what = needs[kind]
        return None if there else what


def shown(medium: Medium) -> str | None:
    """The one thing that a picture or sound gives; None where it is several, or not known."""
    if medium.things:
        return medium.things[0] if len(medium.things) == 1 else None
    if medium.kind == "audio" and phrases.is_music(medium.caption):
        return None
    name = phrases.heard(medium.caption) if medium.kind == "audio" else phrases.bare(medium.caption)
    return name if 0 < len(name.split()) <= _SHORT and not phrases.JOINED.search(name) else None


def _is_thing(picture: Medium) -> bool:
    """Whether its caption names the thing that it gives, and nothing else."""
    name = shown(picture)
    return name is not None and _key(picture.caption) == _key(name)


def _key(name: str) -> str:
    """A thing as it is known by: "An Alligator." -> "alligator"."""
    return clean(phrases.bare(name))


def _one(rng: np.random.Generator, pool: Sequence[T]) -> T:
    return pool[int(rng.integers(len(pool)))]


def _some(rng: np.random.Generator, pool: Sequence[T], count: int) -> list[T]:
    return [pool[int(i)] for i in rng.choice(len(pool), min(count, len(pool)), replace=False)]
