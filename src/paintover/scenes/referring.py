"""Referring edits: instructions that name pictures and sounds, each with one exact answer (InstructAny2Pix).

"Replace [image2] with [audio1] and remove the lemon from [image1]": what is meant is a thing of the world wherever it is given
by words, by a picture of it or by its sound. What goes into a picture is the class's own stamp, or the very thing that the
given picture shows. The world writes both what is said and what it means in full ("replace the cow with a dog and remove the
lemon"), which a language model is taught to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from paintover.scenes import words
from paintover.scenes.assets import Assets, Split, Stamp
from paintover.scenes.captioned import view
from paintover.scenes.change import exchanged, photograph
from paintover.scenes.scene import COLOURS, PLAIN, Backdrop, Object, Scene, random_backdrop, random_scene
from paintover.scenes.sounds import FITS, Recording, Sounds

How = Literal["text", "image", "audio"]
FORMS = ("add", "remove", "replace", "recolour", "two", "style", "fit", "look", "made")
STYLES = ("sepia", "black-and-white", "night", "dusk", "fog", "cooler", "warmer", "rain", "firelight")
SAME = 0.6  # share of given pictures that mean the very thing they show, and not one of its kind
HELD_OUT = 2  # phrasings at the end of each list that training never sees
# {i} the picture to be edited, {a} what is in it, {b} what shall be, {s} what it shall be like, {w} where, {c} a colour.
PHRASES: dict[str, tuple[str, ...]] = {
    "add": (
        "add {b} to {i} {w}", "add {b} {w} in {i}", "put {b} into {i} {w}", "place {b} in {i} {w}", "insert {b} into {i} {w}",
        "add {b} {w}", "put {b} {w}", "draw {b} in {i} {w}", "i want {b} in {i} {w}", "include {b} in {i} {w}",
        "there should be {b} in {i} {w}", "show {b} {w} in {i}", "set {b} into {i} {w}", "let {b} appear in {i} {w}",
    ),
    "remove": (
        "remove {a} from {i}", "take {a} out of {i}", "delete {a} from {i}", "erase {a} from {i}", "get rid of {a} in {i}",
        "remove {a}", "take {a} away", "{i} without {a}", "i don't want {a} in {i}", "make {a} disappear from {i}", "drop {a}",
        "cut {a} out of {i}", "there should be no {a} in {i}", "wipe {a} out of {i}",
    ),
    "replace": (
        "replace {a} with {b} in {i}", "replace {a} in {i} with {b}", "swap {a} for {b} in {i}", "replace {a} by {b}",
        "turn {a} into {b}", "change {a} in {i} to {b}", "put {b} where {a} is in {i}", "exchange {a} for {b}",
        "{b} instead of {a} in {i}", "replace {a} with {b}", "make {a} {b}", "use {b} in place of {a} in {i}",
        "substitute {b} for {a} in {i}", "switch {a} to {b} in {i}",
    ),
    "recolour": (
        "make {a} {c} in {i}", "paint {a} {c}", "turn {a} in {i} {c}", "colour {a} {c}", "{a} should be {c} in {i}",
        "change the colour of {a} to {c}", "dye {a} {c}", "i want {a} in {c}",
    ),
    "style": (
        "change {i} to the style of {s}", "make {i} look like {s}", "give {i} the style of {s}", "{i} in the style of {s}",
        "apply the style of {s} to {i}", "use the mood of {s} for {i}", "let {i} have the light of {s}",
        "make {i} in the same style as {s}", "transfer the style of {s} to {i}", "take the look of {s} for {i}",
    ),
    "fit": (
        "fit {i} to {s}", "make {i} fit {s}", "match {i} to {s}", "adapt {i} to {s}", "let {i} look as {s} sounds",
        "change {i} so that it fits {s}", "bring {s} into {i}", "make {i} look like {s}", "adjust {i} to {s}",
        "let {i} go with {s}",
    ),
    "made": (
        "a picture of {b} {p}", "{b} {p}", "draw {b} {p}", "paint {b} {p}", "show {b} {p}", "make a picture of {b} {p}",
        "generate {b} {p}", "an image with {b} {p}", "create a picture of {b} {p}", "i want to see {b} {p}",
    ),
    "made to": (
        "a picture that fits {s}", "draw what {s} sounds like", "a picture for {s}", "generate {s}", "paint {s}", "{s}",
        "show me {s}", "what does {s} look like?",
    ),
}  # fmt: skip
JOINED = ("{} and {}", "{} and {}", "{}, and {}", "{}, then {}", "{} and then {}", "{} and also {}")


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture that is given."""

    scene: Scene


Medium = Shown | Recording


@dataclass(frozen=True, eq=False)
class Referring:
    """One edit told with references, or a picture made from them.

    words: what is meant, in full and without references: an instruction, or a caption where there is no picture before.
    media: by name, as the instruction names them. base: which of them is edited; None: none. subs: what must appear in the
    result that was not there, each by its noun and the reference that shows or sounds it, None where words do. parts, said:
    `words` and `instruction`, operation by operation.
    """

    kind: str
    before: Scene | None
    after: Scene
    instruction: str
    words: str
    caption: str
    target_caption: str
    media: Mapping[str, Medium]
    base: str | None
    subs: tuple[tuple[str, str | None], ...]
    parts: tuple[str, ...] = ()
    said: tuple[str, ...] = ()


@dataclass
class _Telling:
    """References as they are named one after the other. `place`: of the picture that is edited among the pictures."""

    rng: np.random.Generator
    assets: Assets
    sounds: Sounds
    how: How | None
    place: int

    def __post_init__(self) -> None:
        self.taken: set[str] = set()  # classes that are, or were, in the picture
        self.media: dict[str, Medium] = {}
        self.images = self.audios = 0

    def name(self, medium: Medium) -> str:
        if isinstance(medium, Recording):
            self.audios += 1
            name = f"audio{self.audios}"
        else:
            self.images += 1 + (self.images + 1 == self.place)
            name = f"image{self.images}"
        self.media[name] = medium
        return name

    def way(self, cls: str) -> How:
        """Words, a picture or a sound, where there is one of the class."""
        able: list[How] = ["text", "image", *(["audio"] if cls in self.sounds.by_label else [])]  # type: ignore[list-item]
        if self.how is not None:
            return self.how if self.how in able else "text"
        shares = np.array([0.3, 0.35, 0.35][: len(able)])
        return able[int(self.rng.choice(len(able), p=shares / shares.sum()))]

    def recording(self, label: str) -> Recording:
        found = self.sounds.by_label[label]
        return found[int(self.rng.integers(len(found)))]

    def there(self, thing: Object) -> str:
        """A thing that is in the picture, as it may be named."""
        way = self.way(thing.cls)
        if way == "text":
            return f"the {thing.cls}"
        if way == "audio":
            return self._named(self.recording(thing.cls))
        stamps = self.assets.stamps[thing.cls]
        other = stamps[int(self.rng.integers(len(stamps)))] if self.rng.random() < 0.5 else thing.stamp
        return self._named(Shown(self.alone(other)))

    def shall(self, cls: str, stamp: Stamp, same: bool) -> tuple[str, str | None]:
        """A thing that shall be in the picture, as it may be named, and the reference if there is one."""
        way = "image" if same else self.way(cls)
        if way == "text":
            return words.noun(cls), None
        medium = self.recording(cls) if way == "audio" else Shown(self.alone(stamp))
        named = self._named(medium)
        return named, named[named.index("[") + 1 : -1]

    def _named(self, medium: Medium) -> str:
        name = self.name(medium)
        spoken = [f"[{name}]", f"[{name}]", f"the [{name}]"]
        if isinstance(medium, Recording):
            spoken.append(f"the sound [{name}]")
        return str(self.rng.choice(spoken))

    def alone(self, stamp: Stamp) -> Scene:
        return alone(self.assets, stamp, self.rng)


def alone(assets: Assets, stamp: Stamp, rng: np.random.Generator) -> Scene:
    """A picture that shows a thing, as somebody gives one."""
    side = float(rng.uniform(0.5, 0.92))
    reach = max(0.0, 0.5 - 0.5 * side)
    x, y = (0.5 + reach * float(v) for v in rng.uniform(-1, 1, 2))
    turned = float(rng.uniform(-8, 8)) if rng.random() < 0.4 else 0.0
    return Scene(random_backdrop(assets, rng, plain=0.7), (Object(stamp, x, y, side, angle=turned),))


@dataclass(frozen=True)
class _Done:
    """An operation: the scene after it, how it is said, what it means, and what it brings in."""

    after: Scene
    said: str
    meant: str
    subs: tuple[tuple[str, str | None], ...] = ()
    parts: tuple[str, ...] = ()
    saids: tuple[str, ...] = ()


def make(
    kind: str,
    assets: Assets,
    sounds: Sounds,
    rng: np.random.Generator,
    sides: tuple[float, float],
    how: How | None = None,
    same: float = SAME,
) -> Referring:
    """A random case of `kind` (of FORMS) from the stamps, recordings and phrasings of the split.

    how: everything is given so, where the world can (None: mixed). The same `rng` makes the same scenes however they are told
    of, where `same`, the share of given pictures that mean the very thing they show, is 0.
    """
    seen, told = rng.spawn(2)
    if kind == "made":
        return _made(assets, sounds, seen, told, how, same)
    place = 1 if told.random() < 0.8 else 2
    telling = _Telling(told, assets, sounds, how, place)
    if kind in ("style", "fit", "look") and seen.random() < 0.3:
        before = photograph(assets, seen)
    else:
        before = random_scene(assets, seen, sides)
        while kind == "two" and len(before.objects) < 2:
            before = random_scene(assets, seen, sides)
    telling.taken = {thing.cls for thing in before.objects}
    if kind == "two":
        done = _two(telling, before, seen, sides, same)
    else:
        done = _OPERATIONS[kind](telling, before, seen, sides, same, before.objects[-1] if before.objects else None)
    name = f"image{place if telling.images >= place - 1 else telling.images + 1}"
    media = dict(sorted({**telling.media, name: Shown(before)}.items()))
    said, *saids = (text.replace("{i}", f"[{name}]") for text in (done.said, *(done.saids or (done.said,))))
    opening = words.opening(told)
    captions = words.caption(before, opening), words.caption(done.after, opening)
    return Referring(
        kind, before, done.after, words.dressed(said, told), done.meant, *captions, media, name, done.subs,
        done.parts or (done.meant,), tuple(saids),
    )  # fmt: skip


def _phrase(kind: str, rng: np.random.Generator, split: Split) -> str:
    pool = PHRASES[kind][:-HELD_OUT] if split == "train" else PHRASES[kind][-HELD_OUT:]
    return str(rng.choice(pool))


def _say(telling: _Telling, kind: str, **told: str) -> str:
    """One phrasing, with {i} left in it; the picture that is edited need not be named."""
    phrase = _phrase(kind, telling.rng, telling.assets.split)
    return " ".join(phrase.format(**{"i": "{i}", "w": "", **told}).split())


def _add(
    telling: _Telling, scene: Scene, rng: np.random.Generator, sides: tuple[float, float], same: float, thing: Object | None
) -> _Done:
    cls = _new(telling, rng)
    free = [where for where in words.WHERE if _room(scene, words.WHERE[where])]
    where = str(rng.choice(free or list(words.WHERE)))
    stamp, very = _stamp(telling, cls, rng, same)
    put = Object(stamp, *words.WHERE[where], float(np.mean(sides)))
    named, reference = telling.shall(cls, stamp, very)
    meant = words.meant("add", b=cls, w=where)
    return _Done(
        replace(scene, objects=(*scene.objects, put)), _say(telling, "add", b=named, w=where), meant, ((cls, reference),)
    )


def _remove(
    telling: _Telling, scene: Scene, rng: np.random.Generator, sides: tuple[float, float], same: float, thing: Object | None
) -> _Done:
    assert thing is not None
    after = exchanged(scene, scene.objects.index(thing), None)
    return _Done(after, _say(telling, "remove", a=telling.there(thing)), words.meant("remove", a=thing.cls))


def _replace(
    telling: _Telling, scene: Scene, rng: np.random.Generator, sides: tuple[float, float], same: float, thing: Object | None
) -> _Done:
    assert thing is not None
    cls = _new(telling, rng)
    stamp, very = _stamp(telling, cls, rng, same)
    there = telling.there(thing)
    named, reference = telling.shall(cls, stamp, very)
    after = exchanged(scene, scene.objects.index(thing), Object(stamp, thing.x, thing.y, thing.side))
    said = _say(telling, "replace", a=there, b=named)
    return _Done(after, said, words.meant("replace", a=thing.cls, b=cls), ((cls, reference),))


def _recolour(
    telling: _Telling, scene: Scene, rng: np.random.Generator, sides: tuple[float, float], same: float, thing: Object | None
) -> _Done:
    assert thing is not None
    colour = str(rng.choice(list(COLOURS)))
    after = exchanged(scene, scene.objects.index(thing), replace(thing, colour=colour))
    said = _say(telling, "recolour", a=telling.there(thing), c=colour)
    return _Done(after, said, words.meant("recolour", a=thing.cls, c=colour))


def _two(telling: _Telling, scene: Scene, rng: np.random.Generator, sides: tuple[float, float], same: float) -> _Done:
    """Two operations in one instruction, on two of the things: neither undoes the other."""
    kinds = [str(kind) for kind in rng.choice(["add", "remove", "replace", "recolour"], 2, p=[0.3, 0.25, 0.3, 0.15])]
    things = [scene.objects[int(i)] for i in rng.permutation(len(scene.objects))[:2]]
    first = _OPERATIONS[kinds[0]](telling, scene, rng, sides, same, things[0])
    second = _OPERATIONS[kinds[1]](telling, first.after, rng, sides, same, things[1])
    said = str(telling.rng.choice(JOINED)).format(first.said, second.said)
    parts = first.meant, second.meant
    return _Done(second.after, said, " and ".join(parts), first.subs + second.subs, parts, (first.said, second.said))


def _look(
    telling: _Telling, scene: Scene, rng: np.random.Generator, sides: tuple[float, float], same: float, thing: Object | None
) -> _Done:
    look = str(rng.choice(["rain", "firelight"]))
    return _Done(replace(scene, look=look), words.MEANT[look] + str(telling.rng.choice(["", " in {i}"])), words.MEANT[look])


def _style(
    telling: _Telling, scene: Scene, rng: np.random.Generator, sides: tuple[float, float], same: float, thing: Object | None
) -> _Done:
    look = str(rng.choice(STYLES))
    model = (
        photograph(telling.assets, telling.rng)
        if telling.rng.random() < 0.5
        else random_scene(telling.assets, telling.rng, sides)
    )
    name = telling.name(Shown(replace(model, look=look)))
    return _Done(replace(scene, look=look), _say(telling, "style", s=f"[{name}]"), words.meant(look))


def _fit(
    telling: _Telling, scene: Scene, rng: np.random.Generator, sides: tuple[float, float], same: float, thing: Object | None
) -> _Done:
    able = [label for label in FITS if label in telling.sounds.by_label]
    label = str(rng.choice(able))
    kind, what = FITS[label]
    name = telling.name(telling.recording(label))
    said = _say(telling, "fit", s=f"[{name}]")
    if kind == "look":
        return _Done(replace(scene, look=what), said, words.meant(what))
    return _Done(replace(scene, backdrop=view(telling.assets, what)), said, words.meant("place", p=words.place_words(what)))


def _made(
    assets: Assets, sounds: Sounds, rng: np.random.Generator, told: np.random.Generator, how: How | None, same: float
) -> Referring:
    """A picture made from one or two things that are given, or from what a sound says of a whole one."""
    telling = _Telling(told, assets, sounds, how, 0)
    able = [label for label in FITS if FITS[label][0] == "place" and label in sounds.by_label]
    if able and rng.random() < 0.15:
        label = str(rng.choice(able))
        after = Scene(view(assets, FITS[label][1]))
        name = telling.name(telling.recording(label))
        said = _phrase("made to", told, assets.split).format(s=f"[{name}]")
        return _finished("made", after, said, telling, ())
    name = str(rng.choice(list(PLAIN)))
    drop = Backdrop(f"plain {name}", None, plain=name, seed=int(rng.integers(2**31)))
    if rng.random() < 0.4:
        drop = view(assets, str(rng.choice(assets.labels)))
    count = 2 if rng.random() < 0.35 else 1
    classes = [str(cls) for cls in rng.choice(list(assets.stamps), count, replace=False)]
    things, named, subs = [], [], []
    for cls, x in zip(classes, (0.5,) if count == 1 else (0.28, 0.72), strict=True):
        stamp, very = _stamp(telling, cls, rng, same)
        things.append(Object(stamp, x, 0.52, 0.48 if count == 1 else 0.42))
        spoken, reference = telling.shall(cls, stamp, very)
        named.append(spoken)
        subs.append((cls, reference))
    after = Scene(drop, tuple(things))
    place = words.caption(replace(after, objects=())) if drop.label is None else words.place_of(drop.label)
    said = " ".join(_phrase("made", told, assets.split).format(b=" and ".join(named), p=place).split())
    return _finished("made", after, said, telling, tuple(subs))


def _finished(kind: str, after: Scene, said: str, telling: _Telling, subs: tuple[tuple[str, str | None], ...]) -> Referring:
    caption = words.caption(after)
    media = dict(sorted(telling.media.items()))
    return Referring(kind, None, after, words.dressed(said, telling.rng), caption, "", caption, media, None, subs)


def _new(telling: _Telling, rng: np.random.Generator) -> str:
    """A class that is not in the picture yet; half of the time one that can be heard."""
    able = [cls for cls in telling.assets.stamps if cls not in telling.taken]
    heard = [cls for cls in able if cls in telling.sounds.by_label]
    cls = str(rng.choice(heard if heard and rng.random() < 0.5 else able))
    telling.taken.add(cls)
    return cls


def _stamp(telling: _Telling, cls: str, rng: np.random.Generator, same: float) -> tuple[Stamp, bool]:
    """What is put in, and whether a picture of this very thing must be given, because no words mean it."""
    chance, stamps = rng.random(), telling.assets.stamps[cls]
    which = stamps[int(rng.integers(len(stamps)))]
    if telling.how in (None, "image") and chance < same:
        return which, True
    return telling.assets.canonical[cls], False


def _room(scene: Scene, centre: tuple[float, float]) -> bool:
    x, y = centre
    return all(max(abs(thing.x - x), abs(thing.y - y)) > 0.5 * thing.side for thing in scene.objects)


_Operation = Callable[[_Telling, Scene, np.random.Generator, tuple[float, float], float, Object | None], _Done]
_OPERATIONS: dict[str, _Operation] = {
    "add": _add, "remove": _remove, "replace": _replace, "recolour": _recolour, "style": _style, "fit": _fit,
    "look": _look,
}  # fmt: skip
