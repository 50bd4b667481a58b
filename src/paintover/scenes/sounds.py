"""The world's sounds: recordings of its animals and things, and of what a whole picture may sound like."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paintover import sound
from paintover.errors import PaintoverError
from paintover.scenes.assets import WORLD, Split

RATE = 16_000  # Hz
HELD_OUT = "5-"  # how the names of held-out recordings begin: the fifth fold of ESC-10
# What a sound says of a whole picture, and the edit that fits the picture to it: a place behind it, or a look over it.
FITS: dict[str, tuple[str, str]] = {
    "sea waves": ("place", "beach"),
    "chainsaw": ("place", "forest"),
    "helicopter": ("place", "sky"),
    "rain": ("look", "rain"),
    "crackling fire": ("look", "firelight"),
}


@dataclass(frozen=True, eq=False)
class Recording:
    """A sound of `label`: samples in -1..1 at RATE, mono."""

    label: str
    name: str
    wave: NDArray[np.float32]


class Sounds:
    """The recordings of one split, by label: a class of things, one of FITS, or one that the world has no picture of.

    root: the folder that `fetch` filled; the recordings that come with the stamps are there. recordings: a folder with a
    sub-folder a class, in ESC-10's naming (optional). Raises PaintoverError where a file is missing.
    """

    def __init__(self, root: Path, split: Split, recordings: Path | None = None) -> None:
        if recordings is not None and not recordings.is_dir():
            raise PaintoverError(
                f"no folder of recordings at {recordings}; name one with a sub-folder a class, or leave it out"
            )
        self.root, self.split, self.recordings = Path(root), split, recordings

    @cached_property
    def by_label(self) -> dict[str, tuple[Recording, ...]]:
        """Labels without a recording in this split are left out."""
        world = json.loads(WORLD.read_text())
        files = {label: [self.root / file for file in found[self.split]] for label, found in world["sounds"].items()}
        for label, folder in world["recordings"].items() if self.recordings else ():
            assert self.recordings is not None
            found = sorted((self.recordings / folder).glob("*.*"))
            mine = [file for file in found if file.name.startswith(HELD_OUT) == (self.split == "held_out")]
            if not mine:
                raise PaintoverError(f"no recordings in {self.recordings / folder}; name the folder of all ten classes")
            files[label] = [*files.get(label, ()), *mine]
        return {label: tuple(_opened(label, file) for file in found) for label, found in files.items() if found}


def _opened(label: str, file: Path) -> Recording:
    return Recording(label, file.stem, sound.open(file, RATE).wave)
