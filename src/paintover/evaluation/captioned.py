"""Cases for editors that are told captions: edits that the captions before and after say, all of them with a defined truth.

Two series. "plain": pictures as training draws them for captions (the classes' own stamps in a fixed layout on a plain
ground), which their caption nearly determines. "place": held-out stamps anywhere in held-out photographs, which it only
describes. Half of each is local (a thing is replaced, recoloured, removed, added), half global (a look, another ground).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from paintover.errors import PaintoverError
from paintover.scenes import edits, words
from paintover.scenes.assets import Assets
from paintover.scenes.captioned import settled
from paintover.scenes.looks import LOOKS
from paintover.scenes.scene import COLOURS, PLAIN, Backdrop, Object, Scene

SERIES = ("plain", "place")
# "look" stands for those that captions name, in turn. Added is where the layout leaves one place only: on plain grounds.
ROUNDS = {
    "plain": ("replace", "look", "recolour", "ground", "remove", "look", "add", "look"),
    "place": ("replace", "look", "recolour", "ground", "remove", "look", "replace", "look"),
}
T = TypeVar("T")
_Made = tuple[Scene, Scene, dict[str, str]]  # before, after, the words of the instruction


@dataclass(frozen=True, eq=False)
class Captioned:
    """A case, the series it is of, and whether its edit is local or global."""

    series: str
    extent: str
    case: edits.Case


def cases(assets: Assets, count: int, seed: int) -> Iterator[Captioned]:
    """The table's cases: the n-th depends on seed and n alone (and on whether there are photographs)."""
    looks = list(LOOKS)
    for n in range(count):
        series, k = SERIES[n % 2], n // 2
        kind = ROUNDS[series][k % 8]
        if kind == "look":
            before = sum(ROUNDS[series][i % 8] == "look" for i in range(k))
            kind = looks[before % len(looks)]
        case = _plain(kind, assets, seed, n) if series == "plain" else _place(kind, assets, seed, n)
        yield Captioned(series, "local" if kind in edits.LOCAL else "global", case)


def _plain(kind: str, assets: Assets, seed: int, n: int) -> edits.Case:
    rng = np.random.default_rng([seed, n])
    two = kind in ("remove", "add")
    scene = _drawn(
        lambda: _settled(assets, rng), lambda s: s.backdrop.label is not None and s.look is None and len(s.objects) == 1 + two
    )
    before, after, told = _changed(kind, scene, assets, rng)
    text = words.instruction("place" if kind == "ground" else kind, rng, assets.split, **told)
    return _case(kind, before, after, text)


def _changed(kind: str, scene: Scene, assets: Assets, rng: np.random.Generator) -> _Made:
    thing = scene.objects[-1]
    if kind == "remove":
        return scene, replace(scene, objects=scene.objects[:-1]), {"a": thing.cls}
    if kind == "add":  # the way back
        return replace(scene, objects=scene.objects[:-1]), scene, {"b": thing.cls, "w": "on the right"}
    if kind == "replace":
        cls = str(rng.choice([c for c in assets.classes if c != thing.cls]))
        new = Object(assets.canonical[cls], thing.x, thing.y, thing.side)
        return scene, replace(scene, objects=(new,)), {"a": thing.cls, "b": cls}
    if kind == "recolour":
        colour = str(rng.choice([c for c in COLOURS if c != thing.colour]))
        return scene, replace(scene, objects=(replace(thing, colour=colour),)), {"a": thing.cls, "c": colour}
    if kind == "ground":
        name = str(rng.choice([c for c in PLAIN if c != scene.backdrop.plain]))
        drop = Backdrop(f"plain {name}", None, plain=name, seed=scene.backdrop.seed)
        return scene, replace(scene, backdrop=drop), {"p": words.place_words(drop.label or "")}
    return scene, replace(scene, look=kind), {}


def _place(kind: str, assets: Assets, seed: int, n: int) -> edits.Case:
    """Drawn as the benchmark's cases are, until it happens in a place that the caption names, with a thing in it."""
    rng = np.random.default_rng([seed, n])

    def fits(case: edits.Case) -> bool:
        before, after = case.before, case.after
        if before is None or not before.objects or before.backdrop.place is None or before.backdrop.label is None:
            return False
        if kind == "remove" and not after.objects:  # what is left is said, too
            return False
        return kind != "ground" or after.backdrop.plain is not None

    case = _drawn(lambda: edits.make("place" if kind == "ground" else kind, assets, rng), fits)
    assert case.before is not None
    return _case(kind, case.before, case.after, case.instruction)


def _drawn(draw: Callable[[], T], fits: Callable[[T], bool]) -> T:
    for _ in range(10_000):
        drawn = draw()
        if fits(drawn):
            return drawn
    raise PaintoverError("the built-in world has no held-out scene of the kind that is wanted; fetch it again")


def _settled(assets: Assets, rng: np.random.Generator) -> Scene:
    """A scene that its caption nearly determines, as training draws them."""
    return settled(assets, rng, edits.SIDES[1], 1.0)


def _case(kind: str, before: Scene, after: Scene, instruction: str) -> edits.Case:
    return edits.Case(kind, before, after, instruction, _caption(before), _caption(after))


def _caption(scene: Scene) -> str:
    """Without an opening: captions before and after differ in what the edit changes, and in nothing else."""
    return words.caption(scene)
