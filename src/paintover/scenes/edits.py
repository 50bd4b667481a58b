"""Edits with an exact answer: each is a function Scene -> Scene, so that the target is rendered, not guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paintover.scenes import ambiguous, words
from paintover.scenes.ambiguous import AMBIGUOUS
from paintover.scenes.assets import Assets
from paintover.scenes.captioned import free, settled
from paintover.scenes.change import added, exchanged, own, photograph
from paintover.scenes.looks import LOOKS
from paintover.scenes.scene import COLOURS, PLAIN, Backdrop, Scene, random_backdrop, random_scene

LOCAL = ("remove", "replace", "recolour", "add")
KINDS = (*LOCAL, "place", "nothing", *LOOKS)
CAPTIONS = ("settled", "free")  # text to picture, no source: see `captioned`
EDIT_MIX = {"remove": 0.20, "replace": 0.23, "recolour": 0.14, "add": 0.08, "place": 0.03, "nothing": 0.03, "look": 0.18}
SETTLED = 0.55  # of the captions
PLAIN_GROUNDS = 0.6  # of the settled ones
SIDES = (0.22, 0.48)  # longer side of a thing as a fraction of the frame, at the model's own size


@dataclass(frozen=True, eq=False)
class Case:
    """One edit: before and after, the instruction, and captions of both.

    meant: the instruction said in full, with whatever one must look at the picture to know (MGIE's expressive instruction).
    """

    kind: str
    before: Scene | None  # None: made from words alone
    after: Scene
    instruction: str
    caption: str
    target_caption: str
    meant: str = ""

    def render(self, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Source (zeros where there is none) and target, rgb_HWC float32 in 0..1."""
        target = self.after.render(size)
        return (self.before.render(size) if self.before else np.zeros_like(target)), target


def train_mix(captions: float) -> dict[str, float]:
    """How often training meets each kind where captions have their share of it; the looks share theirs."""
    scale = (1 - captions) / sum(EDIT_MIX.values())
    edited = {kind: scale * share for kind, share in EDIT_MIX.items()}
    return {**edited, "settled": captions * SETTLED, "free": captions * (1 - SETTLED)}


def drawn(mix: Mapping[str, float], rng: np.random.Generator) -> str:
    """A kind of edit by its share of the mix; "look" becomes one of the looks."""
    kind = str(rng.choice(list(mix), p=list(mix.values())))
    return str(rng.choice(list(LOOKS))) if kind == "look" else kind


def changed(
    source: NDArray[np.floating[Any]], target: NDArray[np.floating[Any]], threshold: float = 2 / 255
) -> NDArray[np.bool_]:
    """Where the true edit changes the picture (any channel by more than `threshold`), mask_HW."""
    return np.abs(target - source).max(axis=2) > threshold


def make(
    kind: str,
    assets: Assets,
    rng: np.random.Generator,
    sides: tuple[float, float] = SIDES,
    plain: float = PLAIN_GROUNDS,
) -> Case:
    """A random case of `kind` (of KINDS, AMBIGUOUS or CAPTIONS) from the stamps, places and phrasings of the split.

    `plain`: share of plain grounds among settled captions.
    """
    if kind in CAPTIONS:
        scene = settled(assets, rng, sides[1], plain) if kind == "settled" else free(assets, rng, sides, plain)
        text = words.caption(scene, words.opening(rng))
        return Case(kind, None, scene, text, "", text)
    if kind in AMBIGUOUS:
        before, after, text, meant = ambiguous.make(kind, assets, rng, sides)
        opening = words.opening(rng)
        return Case(kind, before, after, text, words.caption(before, opening), words.caption(after, opening), meant)
    whole = kind in LOOKS or kind == "nothing"
    scene = photograph(assets, rng) if whole and rng.random() < 0.5 else random_scene(assets, rng, sides)
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
    captions = words.caption(scene, opening), words.caption(after, opening)
    return Case(kind, scene, after, text, *captions, words.meant(kind, **told))


def _choose(scene: Scene, rng: np.random.Generator) -> int:
    return int(rng.integers(len(scene.objects)))


def _remove(scene: Scene, assets: Assets, rng: np.random.Generator) -> tuple[Scene, dict[str, str]]:
    i = _choose(scene, rng)
    return exchanged(scene, i, None), {"a": scene.objects[i].cls}


def _replace(scene: Scene, assets: Assets, rng: np.random.Generator) -> tuple[Scene, dict[str, str]]:
    i = _choose(scene, rng)
    old = scene.objects[i]
    cls = _new_class(scene, assets, rng)
    return exchanged(scene, i, own(assets, cls, old)), {"a": old.cls, "b": cls}


def _recolour(scene: Scene, assets: Assets, rng: np.random.Generator) -> tuple[Scene, dict[str, str]]:
    i = _choose(scene, rng)
    colour = str(rng.choice(list(COLOURS)))
    return exchanged(scene, i, replace(scene.objects[i], colour=colour)), {"a": scene.objects[i].cls, "c": colour}


def _add(scene: Scene, assets: Assets, rng: np.random.Generator, sides: tuple[float, float]) -> tuple[Scene, dict[str, str]]:
    """Always said where, and of middling size: what cannot be known from the words is not asked for."""
    where = str(rng.choice(list(words.WHERE)))
    cls = _new_class(scene, assets, rng)
    return added(assets, scene, cls, where, sides), {"b": cls, "w": where}


def _place(scene: Scene, assets: Assets, rng: np.random.Generator) -> tuple[Scene, dict[str, str]]:
    if rng.random() < 0.6:
        name = str(rng.choice(list(PLAIN)))
        drop = Backdrop(f"plain {name}", None, plain=name, seed=0)
    else:
        drop = random_backdrop(assets, rng, label=str(rng.choice(assets.labels)))
    return replace(scene, backdrop=drop), {"p": words.place_words(drop.label or "")}


def _new_class(scene: Scene, assets: Assets, rng: np.random.Generator) -> str:
    here = {o.cls for o in scene.objects}
    return str(rng.choice([c for c in assets.classes if c not in here]))
