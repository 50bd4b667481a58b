"""What edits do to a scene: put a thing in, exchange one or take one away."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from paintover.scenes import words
from paintover.scenes.assets import Assets
from paintover.scenes.scene import Object, Scene, random_backdrop


def photograph(assets: Assets, rng: np.random.Generator) -> Scene:
    """A photograph as it is, with nothing put in."""
    return Scene(random_backdrop(assets, rng, plain=0.0))


def exchanged(scene: Scene, i: int, thing: Object | None) -> Scene:
    """The scene with another thing in place of thing i, or with none."""
    return replace(scene, objects=(*scene.objects[:i], *((thing,) if thing else ()), *scene.objects[i + 1 :]))


def own(assets: Assets, cls: str, old: Object) -> Object:
    """The class's own stamp, upright, in the old thing's place and as long as it was."""
    return Object(assets.canonical[cls], old.x, old.y, old.side)


def added(assets: Assets, scene: Scene, cls: str, where: str, sides: tuple[float, float]) -> Scene:
    """The scene with the class's own stamp, of middling size, at one of words.WHERE."""
    return replace(scene, objects=(*scene.objects, Object(assets.canonical[cls], *words.WHERE[where], float(np.mean(sides)))))
