"""What the built-in world is made of: stamps (cut-outs with alpha), places (photographs) and real photographs.

Which file belongs to which class, and which are held out from training, is the committed list `world.json`. The files
come from the Debian packages it names; `fetch` unpacks them into a folder without installing anything.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from paintover import picture
from paintover.errors import PaintoverError

Split = Literal["train", "held_out"]
WORLD = Path(__file__).with_name("world.json")
STAMP_SIDE = 160  # px; a stamp is drawn smaller than this in every picture we train on
PLACE_SIDE = 384  # px, the shorter side


@dataclass(frozen=True, eq=False)
class Stamp:
    """A cut-out of one class, trimmed to what is visible, its longer side at most STAMP_SIDE pixels."""

    cls: str
    name: str
    rgba: Image.Image  # RGBa (premultiplied), so that it can be resized without fringes

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.rgba.width / self.rgba.height


@dataclass(frozen=True, eq=False)
class Place:
    """A photograph to cut backdrops from, its shorter side PLACE_SIDE pixels. `label`: None where no word of ours names it."""

    label: str | None
    name: str
    rgb: Image.Image


class Assets:
    """The stamps and places of one split.

    `root` is the folder that `fetch` filled; `photos` (optional) a folder of sub-folders of photographs, one a subject.
    heard: with the classes that came for the sake of their sounds. Raises PaintoverError when the root lacks what world.json
    names.
    """

    def __init__(self, root: Path, split: Split, photos: Path | None = None, heard: bool = False) -> None:
        self.root, self.split, self.photos = Path(root), split, photos
        self.world: dict[str, Any] = json.loads(WORLD.read_text())
        if heard:
            self.world["classes"] |= self.world["heard"]
        if not (self.root / "usr" / "share").is_dir():
            raise PaintoverError(f"no built-in world in {root}: fetch it first with `paintover train fetch-world {root}`")
        if photos is not None and not photos.is_dir():
            raise PaintoverError(f"no folder of photographs at {photos}; name one with a sub-folder a subject, or leave it out")

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.world["classes"])

    @property
    def labels(self) -> tuple[str, ...]:
        """The named places that this split has a photograph of."""
        return tuple(label for label, files in self.world["places"].items() if files[self.split])

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over world.json and the names of the photographs: which pictures a split is made of."""
        names = [str(file.relative_to(self.photos)) for file in self._photographs()] if self.photos else []
        return sha256(json.dumps([self.world, names], sort_keys=True).encode()).hexdigest()

    @cached_property
    def canonical(self) -> dict[str, Stamp]:
        """How a class looks when it is put into a picture (its first training stamp): both splits share it."""
        return {c: self._stamp(c, v["train"][0]) for c, v in self.world["classes"].items()}

    @cached_property
    def stamps(self) -> dict[str, tuple[Stamp, ...]]:
        """What may stand in a source picture, by class; classes without a stamp in this split are left out."""
        return {c: tuple(self._stamp(c, f) for f in v[self.split]) for c, v in self.world["classes"].items() if v[self.split]}

    @cached_property
    def places(self) -> tuple[Place, ...]:
        named = [(label, f) for label, files in self.world["places"].items() for f in files[self.split]]
        unnamed = [(None, f) for f in self.world["unnamed_places"][self.split]]
        return tuple(self._place(label, self.root / f) for label, f in [*named, *unnamed])

    @cached_property
    def photographs(self) -> tuple[Place, ...]:
        """Real photographs with things in them: for looks, and as unnamed places. Empty without a photos folder."""
        return tuple(self._place(None, file) for file in self._photographs())

    def _photographs(self) -> list[Path]:
        if self.photos is None:
            return []
        held = set(self.world["photos"]["held_out"])
        subjects = sorted(p for p in self.photos.iterdir() if p.is_dir() and (p.name in held) == (self.split == "held_out"))
        return [file for subject in subjects for file in sorted(subject.glob("*.jp*g"))]

    def _stamp(self, cls: str, file: str) -> Stamp:
        opened = picture.open(self._find(self.root / file))
        alpha = opened.alpha_HW if opened.alpha_HW is not None else np.full(opened.rgb_HWC.shape[:2], 255, np.uint8)
        image = Image.fromarray(np.dstack([opened.rgb_HWC, alpha]))
        box = Image.fromarray(np.where(alpha > 8, 255, 0).astype(np.uint8)).getbbox()
        image = image.crop(box).convert("RGBa")
        image.thumbnail((STAMP_SIDE, STAMP_SIDE), Image.Resampling.LANCZOS)
        return Stamp(cls, Path(file).stem, image)

    def _place(self, label: str | None, file: Path) -> Place:
        image = Image.fromarray(picture.open(self._find(file)).rgb_HWC)
        scale = PLACE_SIDE / min(image.size)
        if scale < 1:
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
        return Place(label, file.stem, image)

    def _find(self, file: Path) -> Path:
        if not file.exists():
            raise PaintoverError(f"the built-in world lacks {file}: fetch it again with `paintover train fetch-world`")
        return file


def fetch(root: Path) -> None:
    """Download the Debian packages that world.json names and unpack them below `root`. Needs apt-get and dpkg-deb.

    Nothing is installed and no root rights are needed. Raises PaintoverError where apt-get is missing or refuses, or a
    package does not unpack.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise PaintoverError("the built-in world is made of Debian packages: fetch it on Debian or Ubuntu and copy the folder")
    packages = json.loads(WORLD.read_text())["packages"]
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for package in packages:
            _run(["apt-get", "download", package], Path(folder), f"could not download {package} (`apt-get update` first?)")
        for deb in sorted(Path(folder).glob("*.deb")):
            _run(["dpkg-deb", "-x", str(deb), str(root.resolve())], Path(folder), f"could not unpack {deb.name}")


def _run(command: list[str], folder: Path, failure: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PaintoverError(f"{failure}: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")


def as_float(image: Image.Image) -> NDArray[np.float32]:
    """A Pillow picture as float32 in 0..1."""
    return np.asarray(image, dtype=np.float32) / np.float32(255)
