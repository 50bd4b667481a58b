"""Edits with an exact answer: each is a function Scene -> Scene, so that the target is rendered, not guessed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paintover.scenes import words
from paintover.scenes.assets import Assets
from paintover.scenes.looks import LOOKS
from paintover.scenes.scene import COLOURS, PLAIN, Backdrop, Object, Scene, random_backdrop, random_scene

LOCAL = ("remove", "replace", "recolour", "add")
KINDS = (*LOCAL, "place", "nothing", *LOOKS)
# How often training meets each kind; looks share theirs. "caption" is text to picture (no source).
TRAIN_MIX = {
    "remove": 0.20,
    "replace": 0.23,
    "recolour": 0.14,
    "add": 0.08,
    "place": 0.03,
    "nothing": 0.03,
    "look": 0.18,
    "caption": 0.11,
}
SIDES = (0.22, 0.48)  # longer side of a thing as a fraction of the frame, at the model's own size


@dataclass(frozen=True, eq=False)
class Case:
    """One edit: before and after, the instruction, and captions of both."""

    kind: str
    before: Scene | None  # None: made from words alone
    after: Scene
    instruction: str
    caption: str
    target_caption: str

    def render(self, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Source (zeros where there is none) and target, rgb_HWC float32 in 0..1."""
        target = self.after.render(size)
        return (self.before.render(size) if self.before else np.zeros_like(target)), target


def changed(
    source: NDArray[np.floating[Any]], target: NDArray[np.floating[Any]], threshold: float = 2 / 255
) -> NDArray[np.bool_]:
    """Where the true edit changes the picture (any channel by more than `threshold`), mask_HW."""
    return np.abs(target - source).max(axis=2) > threshold


def make(kind: str, assets: Assets, rng: np.random.Generator, sides: tuple[float, float] = SIDES) -> Case:
    """A random case of `kind` (one of KINDS, or "caption") from the stamps, places and phrasings of the split."""
    if kind == "caption":
        return _caption(assets, rng, sides)
    whole = kind in LOOKS or kind == "nothing"
    scene = _photograph(assets, rng) if whole and rng.random() < 0.5 else random_scene(assets, rng, sides)
    after = scene
    told: dict[str, str] = {}
    if kind in LOOKS:
        after = replace(scene, look=kind)
    elif kind == "place":
        after, told = _place(scene, assets, rng)
    elif kind == "add":
        after, told = _add(scene, assets, rng, sides)
    elif kind in LOCAL:
        after, told = {"remove": _remove, "replace": _replace, "recolour": _recolour}[kind](scene, assets, rng)
    text = words.instruction(kind, rng, assets.split, **told)
    opening = words.opening(rng)
    return Case(kind, scene, after, text, words.caption(scene, opening), words.caption(after, opening))


def _photograph(assets: Assets, rng: np.random.Generator) -> Scene:
    """A photograph as it is, with nothing put in."""
    return Scene(random_backdrop(assets, rng, plain=0.0))


def _choose(scene: Scene, rng: np.random.Generator) -> int:
    return int(rng.integers(len(scene.objects)))


def _remove(scene: Scene, assets: Assets, rng: np.random.Generator) -> tuple[Scene, dict[str, str]]:
    i = _choose(scene, rng)
    return _with(scene, i, None), {"a": scene.objects[i].cls}


def _replace(scene: Scene, assets: Assets, rng: np.random.Generator) -> tuple[Scene, dict[str, str]]:
    """The new thing is its class's own stamp, upright, in the old one's place and as long as it was."""
    i = _choose(scene, rng)
    old = scene.objects[i]
    cls = _new_class(scene, assets, rng)
    new = Object(assets.canonical[cls], old.x, old.y, old.side)
    return _with(scene, i, new), {"a": old.cls, "b": cls}


def _recolour(scene: Scene, assets: Assets, rng: np.random.Generator) -> tuple[Scene, dict[str, str]]:
    i = _choose(scene, rng)
    colour = str(rng.choice(list(COLOURS)))
    return _with(scene, i, replace(scene.objects[i], colour=colour)), {"a": scene.objects[i].cls, "c": colour}


def _add(scene: Scene, assets: Assets, rng: np.random.Generator, sides: tuple[float, float]) -> tuple[Scene, dict[str, str]]:
    """Always said where, and of middling size: what cannot be known from the words is not asked for."""
    where = str(rng.choice(list(words.WHERE)))
    x, y = words.WHERE[where]
    new = Object(assets.canonical[_new_class(scene, assets, rng)], x, y, float(np.mean(sides)))
    return replace(scene, objects=(*scene.objects, new)), {"b": new.cls, "w": where}


def _place(scene: Scene, assets: Assets, rng: np.random.Generator) -> tuple[Scene, dict[str, str]]:
    if rng.random() < 0.6:
        name = str(rng.choice(list(PLAIN)))
        drop = Backdrop(f"plain {name}", None, plain=name, seed=0)
    else:
        drop = random_backdrop(assets, rng, label=str(rng.choice(assets.labels)))
    return replace(scene, backdrop=drop), {"p": words.place_words(drop.label or "")}


def _caption(assets: Assets, rng: np.random.Generator, sides: tuple[float, float]) -> Case:
    """Text to picture: mostly plain grounds and the classes' own stamps, so that the words nearly determine the picture."""
    label = None if rng.random() < 0.6 else str(rng.choice(assets.labels))
    drop = random_backdrop(assets, rng, label=label, plain=1.0)
    while drop.label is None:
        drop = random_backdrop(assets, rng, plain=1.0)
    objects: tuple[Object, ...] = ()
    for x in ((0.5,), (0.29, 0.71))[int(rng.random() < 0.4)]:
        cls = str(rng.choice([c for c in assets.classes if c not in {o.cls for o in objects}]))
        colour = str(rng.choice(list(COLOURS))) if rng.random() < 0.15 else None
        objects += (Object(assets.canonical[cls], x, 0.52, sides[1], colour=colour),)
    scene = Scene(drop, objects)
    text = words.caption(scene, words.opening(rng))
    return Case("caption", None, scene, text, "", text)


def _new_class(scene: Scene, assets: Assets, rng: np.random.Generator) -> str:
    here = {o.cls for o in scene.objects}
    return str(rng.choice([c for c in assets.classes if c not in here]))


def _with(scene: Scene, i: int, thing: Object | None) -> Scene:
    return replace(scene, objects=(*scene.objects[:i], *((thing,) if thing else ()), *scene.objects[i + 1 :]))
