"""Held-out referring edits with an exact answer, each told in one way or in several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paintover.errors import RequestError
from paintover.evaluation.compare import Picture, as_uint8
from paintover.evaluation.metrics import l1, l2
from paintover.scenes.assets import Assets
from paintover.scenes.edits import SIDES, changed
from paintover.scenes.referring import How, Referring, make
from paintover.scenes.sounds import FITS, Recording, Sounds

MIXED = "mixed"
LOCAL = ("add", "replace", "remove")
WHOLE = ("style", "fit", "made")
# Each group: the kinds in turn, how its cases are told, and what share of the default number of cases it has.
GROUPS: dict[str, tuple[tuple[str, ...], tuple[str, ...], float]] = {
    "ways": (LOCAL, ("text", "image", "audio"), 1.0),
    "two": (("two",), ("text", MIXED), 0.7),
    "refinement": ((*LOCAL, "recolour", "style"), (MIXED,), 0.7),
    "control": ((*LOCAL, "recolour", "style"), (MIXED,), 0.5),
    "whole": (WHOLE, (MIXED,), 1.0),
}
_TRIES = 200


@dataclass(frozen=True, eq=False)
class Held:
    """A case: uint8 pictures HWC (no source: it is made), what the true edit changes, and the ways in which it is told."""

    n: int
    kind: str
    source: Picture | None
    target: Picture
    inside: NDArray[np.bool_]
    told: Mapping[str, Referring]

    @property
    def captions(self) -> tuple[str, str]:
        """Of the source and of the target."""
        one = next(iter(self.told.values()))
        return one.caption, one.target_caption

    def measure(self, picture: Picture) -> dict[str, float]:
        """L1 to the target over the whole, inside and outside of the change, squared error inside; nan for an empty region."""
        made, goal = picture / 255, self.target / 255
        return {
            "l1": l1(made, goal),
            "l1_inside": l1(made, goal, self.inside),
            "l1_outside": l1(made, goal, ~self.inside),
            "l2_inside": l2(made, goal, self.inside),
        }


def held(group: str, count: int, assets: Assets, sounds: Sounds, size: int, seed: int) -> list[Held]:
    """The cases of one of GROUPS, its kinds in turn: the n-th depends on seed and n alone. Raises RequestError.

    In "ways", a case that cannot be told by a sound is drawn again; told otherwise it is the same scene.
    """
    kinds, hows, _ = GROUPS[group]
    if not set(FITS) & set(sounds.by_label):
        kinds = tuple(kind for kind in kinds if kind != "fit")
    return [_held(n, kinds[n % len(kinds)], hows, assets, sounds, size, seed, list(GROUPS).index(group)) for n in range(count)]


def _held(n: int, kind: str, hows: Sequence[str], assets: Assets, sounds: Sounds, size: int, seed: int, group: int) -> Held:
    for again in range(_TRIES):
        told = {how: _told(how, kind, assets, sounds, [seed, group, n, again]) for how in hows}
        if "audio" not in told or heard(told["audio"]):
            break
    else:
        raise RequestError("none of the held-out things has a sound; name a folder of recordings (--recordings)")
    one = told[hows[0]]
    target = as_uint8(one.after.render(size))
    source = None if one.before is None else as_uint8(one.before.render(size))
    inside = np.ones(target.shape[:2], bool) if source is None else changed(source / np.float32(255), target / np.float32(255))
    return Held(n, kind, source, target, inside, told)


def _told(how: str, kind: str, assets: Assets, sounds: Sounds, seed: list[int]) -> Referring:
    given: How | None = None if how == MIXED else how  # type: ignore[assignment]
    return make(kind, assets, sounds, np.random.default_rng(seed), SIDES, how=given, same=0.0)


def heard(one: Referring) -> bool:
    return any(isinstance(medium, Recording) for medium in one.media.values())
