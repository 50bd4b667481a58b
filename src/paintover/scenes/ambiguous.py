"""Ambiguous edits: what the instruction means depends on the picture, and yet each has one exact answer.

"Remove the animal" is a cow in one picture and a duck in another; "make it ripe" turns a banana yellow and a strawberry red.
The world knows the answer, and says it in words of its own, as explicitly as an instruction can be: "remove the cow". Those
expressive instructions are what a language model that sees the picture is taught to write (MGIE, Fu et al. 2024, section 3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from paintover.errors import PaintoverError
from paintover.scenes import words
from paintover.scenes.assets import Assets
from paintover.scenes.change import added, exchanged, own, photograph
from paintover.scenes.scene import COLOURS, Scene, random_scene

FRUIT = ("apple", "orange", "lemon", "banana", "pear", "strawberry", "grapes")
GROWN = (*FRUIT, "pumpkin", "mushroom", "flower")
ANIMALS = ("cow", "pig", "sheep", "horse", "rabbit", "lion", "duck", "penguin", "frog", "ladybug", "fish")
# What a thing may be called by somebody who does not say which one he means.
CATEGORIES: dict[str, tuple[str, ...]] = {
    "animal": ANIMALS,
    "creature": ANIMALS,
    "farm animal": ("cow", "pig", "sheep", "horse"),
    "bird": ("duck", "penguin"),
    "fruit": FRUIT,
    "food": (*FRUIT, "pumpkin", "mushroom"),
    "plant": ("flower", "mushroom", "pumpkin"),
}
EATS = {
    "cow": "pear", "pig": "mushroom", "sheep": "flower", "horse": "apple", "rabbit": "strawberry", "lion": "fish",
    "duck": "grapes", "penguin": "fish", "frog": "ladybug", "ladybug": "flower", "fish": "ladybug",
}  # fmt: skip
RIPE = {
    "apple": "red", "lemon": "yellow", "banana": "yellow", "pear": "yellow", "strawberry": "red", "grapes": "purple",
}  # fmt: skip
UNDONE = {"darker": "make it brighter", "cooler": "make it warmer", "warmer": "make it cooler", "fog": "clear the fog away"}

_TRIES = 400
Meaning = tuple[Scene, Scene, dict[str, str], str, str]  # before, after, words told, whose phrasings, what is meant


def make(kind: str, assets: Assets, rng: np.random.Generator, sides: tuple[float, float]) -> tuple[Scene, Scene, str, str]:
    """A case of `kind` (of AMBIGUOUS): the scenes before and after, the instruction, and what it means here."""
    before, after, told, phrases, meant = _MAKE[kind](assets, rng, sides)
    return before, after, words.instruction(phrases, rng, assets.split, **told), meant


def _which(assets: Assets, rng: np.random.Generator, sides: tuple[float, float]) -> Meaning:
    """Remove, replace or recolour a thing that is called by its kind, its size or its side."""
    scene = _until(assets, rng, sides, lambda s: bool(_called(s)))
    called = _called(scene)
    i, name = called[int(rng.integers(len(called)))]
    old, edit = scene.objects[i], str(rng.choice(["remove", "replace", "recolour"]))
    if edit == "remove":
        return scene, exchanged(scene, i, None), {"a": name}, edit, words.meant(edit, a=old.cls)
    if edit == "recolour":
        colour = str(rng.choice(list(COLOURS)))
        after = exchanged(scene, i, replace(old, colour=colour))
        return scene, after, {"a": name, "c": colour}, edit, words.meant(edit, a=old.cls, c=colour)
    new = str(rng.choice([c for c in assets.classes if c not in {o.cls for o in scene.objects}]))
    return scene, exchanged(scene, i, own(assets, new, old)), {"a": name, "b": new}, edit, words.meant(edit, a=old.cls, b=new)


def _called(scene: Scene) -> list[tuple[int, str]]:
    return [(i, name) for i in range(len(scene.objects)) for name in _names(scene, i)]


def _names(scene: Scene, i: int) -> list[str]:
    """What thing i can be called, without its name, so that it can be no other."""
    thing, others = scene.objects[i], [o for j, o in enumerate(scene.objects) if j != i]
    names = [name for name, classes in CATEGORIES.items() if [o for o in scene.objects if o.cls in classes] == [thing]]
    if not others:
        return names
    if all(thing.side > 1.25 * o.side for o in others):
        names += ["big thing", "larger thing"]
    if all(1.25 * thing.side < o.side for o in others):
        names += ["small thing", "smaller thing"]
    if all(thing.x < o.x - 0.15 for o in others):
        names += ["thing on the left"]
    if all(thing.x > o.x + 0.15 for o in others):
        names += ["thing on the right"]
    return names


def _alike(assets: Assets, rng: np.random.Generator, sides: tuple[float, float]) -> Meaning:
    """The small one becomes what the big one is."""
    scene = _until(assets, rng, sides, lambda s: _two_sizes(s) is not None)
    small, big = _two_sizes(scene) or (0, 1)
    old, cls = scene.objects[small], scene.objects[big].cls
    return scene, exchanged(scene, small, own(assets, cls, old)), {}, "alike", words.meant("replace", a=old.cls, b=cls)


def _two_sizes(scene: Scene) -> tuple[int, int] | None:
    """Which is the smaller of two things, and which the larger, where that is plain to see."""
    if len(scene.objects) != 2:
        return None
    a, b = (o.side for o in scene.objects)
    return None if max(a, b) < 1.25 * min(a, b) else (0, 1) if a < b else (1, 0)


def _feed(assets: Assets, rng: np.random.Generator, sides: tuple[float, float]) -> Meaning:
    """The only animal gets what it eats, on the side where it is not."""
    scene = _until(assets, rng, sides, lambda s: len(_of(s, ANIMALS)) == 1 and _free_side(s) is not None)
    food, where = EATS[scene.objects[_of(scene, ANIMALS)[0]].cls], _free_side(scene) or ""
    return scene, added(assets, scene, food, where, sides), {}, "feed", words.meant("add", b=food, w=where)


def _ripe(assets: Assets, rng: np.random.Generator, sides: tuple[float, float]) -> Meaning:
    """The only fruit is green, and becomes as it should be."""
    scene = _until(assets, rng, sides, lambda s: len(_of(s, FRUIT)) == 1 and s.objects[_of(s, FRUIT)[0]].cls in RIPE)
    [i] = _of(scene, FRUIT)
    thing = scene.objects[i]
    before = exchanged(scene, i, replace(thing, colour="green"))
    after = exchanged(scene, i, replace(thing, colour=RIPE[thing.cls]))
    return before, after, {}, "ripe", words.meant("recolour", a=thing.cls, c=RIPE[thing.cls])


def _frost(assets: Assets, rng: np.random.Generator, sides: tuple[float, float]) -> Meaning:
    """It gets cold, and what has grown is white with frost; animals do not change."""
    scene = random_scene(assets, rng, sides) if rng.random() < 0.8 else photograph(assets, rng)
    grown = _of(scene, GROWN)
    things = tuple(replace(o, colour="white") if i in grown else o for i, o in enumerate(scene.objects))
    meant = [words.meant("cooler"), *(words.meant("recolour", a=scene.objects[i].cls, c="white") for i in grown)]
    return scene, replace(scene, objects=things, look="cooler"), {}, "frost", " and ".join(meant)


def _festive(assets: Assets, rng: np.random.Generator, sides: tuple[float, float]) -> Meaning:
    """The only fruit becomes a pumpkin; an animal that is alone gets a flower."""
    scene = _until(
        assets, rng, sides,
        lambda s: (len(_of(s, FRUIT)) == 1 and not _of(s, ("pumpkin",)))
        or (not _of(s, GROWN) and len(s.objects) == 1 and _free_side(s) is not None),
    )  # fmt: skip
    fruit = _of(scene, FRUIT)
    if fruit:
        old = scene.objects[fruit[0]]
        after = exchanged(scene, fruit[0], own(assets, "pumpkin", old))
        return scene, after, {}, "festive", words.meant("replace", a=old.cls, b="pumpkin")
    where = _free_side(scene) or ""
    return scene, added(assets, scene, "flower", where, sides), {}, "festive", words.meant("add", b="flower", w=where)


def _later(assets: Assets, rng: np.random.Generator, sides: tuple[float, float]) -> Meaning:
    """Day becomes dusk, and dusk night."""
    scene = _anything(assets, rng, sides)
    if rng.random() < 0.5:
        return scene, replace(scene, look="dusk"), {}, "later", words.meant("dusk")
    return replace(scene, look="dusk"), replace(scene, look="night"), {}, "later", words.meant("night")


def _fix(assets: Assets, rng: np.random.Generator, sides: tuple[float, float]) -> Meaning:
    """What is wrong with the picture's light is undone, whatever it is."""
    scene, wrong = _anything(assets, rng, sides), str(rng.choice(list(UNDONE)))
    return replace(scene, look=wrong), scene, {}, "fix", UNDONE[wrong]


_MAKE: dict[str, Callable[[Assets, np.random.Generator, tuple[float, float]], Meaning]] = {
    "which": _which, "alike": _alike, "feed": _feed, "ripe": _ripe, "frost": _frost, "festive": _festive, "later": _later,
    "fix": _fix,
}  # fmt: skip
AMBIGUOUS = tuple(_MAKE)
# How often training meets each: `which` is many in one, and `later` is soon learnt.
_TIMES = tuple({"which": 6, "later": 1}.get(kind, 2) for kind in AMBIGUOUS)
SHARES = tuple(times / sum(_TIMES) for times in _TIMES)


def _until(assets: Assets, rng: np.random.Generator, sides: tuple[float, float], wanted: Callable[[Scene], bool]) -> Scene:
    """A random scene that is as wanted. Raises PaintoverError where hundreds are not."""
    scenes = (random_scene(assets, rng, sides) for _ in range(_TRIES))
    found = next((scene for scene in scenes if wanted(scene)), None)
    if found is None:
        raise PaintoverError(f"the world in {assets.root} has too few things for ambiguous edits; fetch it anew")
    return found


def _anything(assets: Assets, rng: np.random.Generator, sides: tuple[float, float]) -> Scene:
    """A scene, or a photograph as it is."""
    return random_scene(assets, rng, sides) if rng.random() < 0.5 else photograph(assets, rng)


def _of(scene: Scene, classes: tuple[str, ...]) -> list[int]:
    return [i for i, o in enumerate(scene.objects) if o.cls in classes]


def _free_side(scene: Scene) -> str | None:
    """The half of the frame that no thing stands in, or reaches far into."""
    if all(o.x > 0.5 + 0.3 * o.side for o in scene.objects):
        return "on the left"
    return "on the right" if all(o.x < 0.5 - 0.3 * o.side for o in scene.objects) else None
