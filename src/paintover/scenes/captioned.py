"""Scenes for text to picture: "settled" ones, which their caption determines, and "free" ones, which it only describes.

A small model learns text to picture where the words leave little open: from pure noise it can only say the mean of what
they may mean. Free scenes are what a caption meets in a picture that is being edited, and there the noisy picture itself
says what the words leave open; so training shows them part-noised (`training.batches`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from paintover.scenes.assets import Assets
from paintover.scenes.change import own, photograph
from paintover.scenes.looks import LOOKS
from paintover.scenes.scene import COLOURS, PLAIN, Backdrop, Object, Scene, random_scene

UNNAMED = "white"  # the ground of a settled scene whose caption names none
_VIEW = {"leaves": 1, "sky": 1, "wood": 1}  # which photograph is a place's own view, where it is not the first


def settled(assets: Assets, rng: np.random.Generator, side: float, plain: float) -> Scene:
    """The classes' own stamps in a fixed layout, on a plain ground (share `plain`) or a place's own view.

    `side`: longer side of a thing that stands alone, in frames.
    """
    seed = int(rng.integers(2**31))
    if rng.random() < 0.06:
        drop = Backdrop(None, None, plain=UNNAMED, seed=seed)
    elif rng.random() < plain:
        name = str(rng.choice(list(PLAIN)))
        drop = Backdrop(f"plain {name}", None, plain=name, seed=seed)
    else:
        drop = view(assets, str(rng.choice(assets.labels)))
    count = int(rng.choice([1, 2, 0], p=[0.70, 0.22, 0.08]))
    classes = [str(name) for name in rng.choice(assets.classes, count, replace=False)]
    xs = (0.5,) if count == 1 else (0.28, 0.72)
    things = tuple(
        Object(assets.canonical[cls], x, 0.52, side if count == 1 else min(side, 0.42), colour=_colour(rng, 0.15))
        for cls, x in zip(classes, xs, strict=False)
    )
    return Scene(drop, things, _look(rng, 0.12))


def free(assets: Assets, rng: np.random.Generator, sides: tuple[float, float], plain: float) -> Scene:
    """A settled scene with its things moved about, or any that an edit may begin with or lead to, photographs among them."""
    draw = rng.random()
    if draw < 0.5:
        scene = settled(assets, rng, sides[1], plain)
        return replace(scene, objects=tuple(_moved(thing, rng, sides) for thing in scene.objects))
    if draw < 0.55:
        return replace(photograph(assets, rng), look=_look(rng, 0.5))
    scene = random_scene(assets, rng, sides)
    some = [own(assets, thing.cls, thing) if rng.random() < 0.5 else thing for thing in scene.objects]
    things = tuple(replace(thing, colour=_colour(rng, 0.15)) for thing in some)
    return replace(scene, objects=things, look=_look(rng, 0.3))


def view(assets: Assets, label: str) -> Backdrop:
    """A place's own view: the middle of one of its photographs."""
    pool = [place for place in assets.places if place.label == label]
    place = pool[min(_VIEW.get(label, 0), len(pool) - 1)]
    width, height = (v / min(place.rgb.size) for v in place.rgb.size)
    return Backdrop(label, place, ((width - 1) / 2, (height - 1) / 2, 1.0))


def _moved(thing: Object, rng: np.random.Generator, sides: tuple[float, float]) -> Object:
    """Anywhere, in its own half of the frame where it has one, and of any size that leaves room for the other."""
    side = float(rng.uniform(sides[0], min(sides[1], thing.side)))
    reach = 0.5 - 0.45 * side
    x = thing.x + float(rng.uniform(-1, 1)) * (reach if thing.x == 0.5 else max(0.0, 0.22 - side / 2))
    return replace(thing, x=x, y=0.5 + float(rng.uniform(-1, 1)) * reach, side=side)


def _colour(rng: np.random.Generator, share: float) -> str | None:
    return str(rng.choice(list(COLOURS))) if rng.random() < share else None


def _look(rng: np.random.Generator, share: float) -> str | None:
    return str(rng.choice(list(LOOKS))) if rng.random() < share else None
