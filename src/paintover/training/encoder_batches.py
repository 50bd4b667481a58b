"""Batches for the media encoder: labels with pictures, sounds and words, and whole pictures with their captions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from paintover.models.small_encoder import CLIP, SmallEncoder
from paintover.scenes import words
from paintover.scenes.assets import Assets
from paintover.scenes.captioned import free
from paintover.scenes.looks import LOOKS, MOODS
from paintover.scenes.scene import COLOURS, Object, Scene, random_backdrop, random_scene
from paintover.scenes.sounds import FITS, Sounds
from paintover.training.batches import Share
from paintover.training.encoder_recipe import EncoderRecipe

NAMES = ("{}", "{}", "a photo of {}", "a picture of {}", "this is {}", "there is {}")
HEARD = (*NAMES, "the sound of {}")
COLOURED = 0.25  # share of things that are called by a colour, too


@dataclass(frozen=True)
class Label:
    """What pictures, sounds and words of one step have in common. colour: a thing's, where it is called by that, too."""

    name: str
    colour: str | None = None

    @property
    def words(self) -> str:
        return words.noun(self.name if self.colour is None else f"{self.colour} {self.name}")


class EncoderBatches(Dataset[dict[str, Tensor]]):
    """Item `step`: that step's rows; it depends on seed, step and this process's share alone.

    crops_KCHW, clips_SN, pooled_LD (the labels' words) with crop_K, clip_S and word_L, the number of their label; stamp_K: the
    number of the very thing that a crop shows. scenes_BCHW and captions_BD.
    """

    def __init__(
        self, root: Path, photos: Path | None, recordings: Path | None, net: SmallEncoder, recipe: EncoderRecipe, share: Share
    ) -> None:
        self.assets = Assets(root, "train", photos, heard=True)
        self.sounds = Sounds(root, "train", recordings).by_label
        self.net, self.recipe, self.share = net, recipe, share
        things = list(self.assets.classes)
        self.names = sorted({*things, *self.sounds})
        seen = np.array([2.0 if name in self.sounds else 1.0 for name in self.names])
        self.shares = seen / seen.sum()
        self._pooled: dict[str, Tensor] = {}

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.recipe.seed, step, self.share.rank])
        names = rng.choice(self.names, min(self.recipe.labels, len(self.names)), replace=False, p=self.shares)
        crops, crop, stamp, clips, clip, told, word = [], [], [], [], [], [], []
        for number, name in enumerate(str(name) for name in names):
            thing = name in self.assets.classes
            label = Label(name, str(rng.choice(list(COLOURS))) if thing and rng.random() < COLOURED else None)
            for picture, which in self._crops(label, rng):
                crops.append(self._pixels(picture, rng))
                crop.append(number)
                stamp.append(number * self.recipe.crops + which)
            if label.colour is None and name in self.sounds:
                for _ in range(self.recipe.clips):
                    clips.append(self._clip(name, rng))
                    clip.append(number)
            pool = HEARD if label.colour is None and name in self.sounds else NAMES
            told.append(self._told(str(rng.choice(pool)).format(label.words)))
            word.append(number)
        scenes = [self._scene(rng) for _ in range(self.recipe.scenes)]
        return {
            "crops_KCHW": torch.stack(crops),
            "crop_K": torch.tensor(crop),
            "stamp_K": torch.tensor(stamp),
            "clips_SN": torch.stack(clips) if clips else torch.zeros(0, CLIP),
            "clip_S": torch.tensor(clip, dtype=torch.long),
            "pooled_LD": torch.stack(told),
            "word_L": torch.tensor(word),
            "scenes_BCHW": torch.stack([self._pixels(scene, rng) for scene in scenes]),
            "captions_BD": torch.stack([self._told(words.caption(scene, words.opening(rng))) for scene in scenes]),
        }

    def _crops(self, label: Label, rng: np.random.Generator) -> list[tuple[Scene, int]]:
        """Pictures of the label, and which of its things each shows: the first two show the same one."""
        if label.name in self.assets.classes:
            stamps = self.assets.stamps[label.name]
            things = [stamps[int(rng.integers(len(stamps)))] for _ in range(self.recipe.crops - 1)]
            shown = [(things[0], 0), *zip(things, range(len(things)), strict=True)]
            return [(self._alone(Object(stamp, 0.5, 0.5, 0.5, colour=label.colour), rng), which) for stamp, which in shown]
        if label.name not in FITS:
            return []  # heard, and never seen
        kind, what = FITS[label.name]
        made = []
        for which in range(self.recipe.crops):
            if kind == "place":
                made.append((Scene(random_backdrop(self.assets, rng, label=what)), which))
            else:
                made.append((replace(self._any(rng), look=what), which))
        return made

    def _alone(self, thing: Object, rng: np.random.Generator) -> Scene:
        """As a picture that somebody gives to show a thing: it fills most of the frame, or a good part of it."""
        side = float(rng.uniform(0.4, 0.95))
        reach = max(0.0, 0.5 - 0.48 * side)
        x, y = (0.5 + reach * float(v) for v in rng.uniform(-1, 1, 2))
        tone = 1 + 0.2 * rng.uniform(-1, 1) + 0.08 * rng.uniform(-1, 1, 3)
        turned = float(rng.uniform(-15, 15)) if rng.random() < 0.5 else 0.0
        placed = replace(thing, x=x, y=y, side=side, flip=bool(rng.random() < 0.5), angle=turned)
        placed = replace(placed, tone=(float(tone[0]), float(tone[1]), float(tone[2])))
        look = str(rng.choice(list(LOOKS))) if rng.random() < 0.1 else None
        return Scene(random_backdrop(self.assets, rng, plain=0.5), (placed,), look)

    def _any(self, rng: np.random.Generator) -> Scene:
        return random_scene(self.assets, rng, self.recipe.sides)

    def _scene(self, rng: np.random.Generator) -> Scene:
        scene = free(self.assets, rng, self.recipe.sides, 0.5) if rng.random() < 0.4 else self._any(rng)
        draw = rng.random()
        if scene.look is None and draw < 0.35:
            scene = replace(scene, look=str(rng.choice([*LOOKS, *MOODS])))
        if draw > 0.5 and scene.backdrop.label is None:
            scene = replace(scene, backdrop=random_backdrop(self.assets, rng, label=str(rng.choice(self.assets.labels))))
        return scene

    def _pixels(self, scene: Scene, rng: np.random.Generator) -> Tensor:
        rgb = scene.render(self.recipe.size)
        rgb = np.clip(rgb + rng.normal(0, rng.uniform(0, 0.04), rgb.shape), 0, 1).astype(np.float32)
        return torch.from_numpy(rgb).permute(2, 0, 1) * 2 - 1

    def _clip(self, name: str, rng: np.random.Generator) -> Tensor:
        """Two seconds of a recording of this label: faster or slower, with something of another one behind it."""
        found = self.sounds[name]
        samples = _cut(found[int(rng.integers(len(found)))].wave, rng, rng.uniform(0.85, 1.2))
        if rng.random() < 0.6:
            other = self.sounds[str(rng.choice(list(self.sounds)))]
            behind = _cut(other[int(rng.integers(len(other)))].wave, rng, 1.0)
            samples = samples + float(rng.uniform(0, 0.25)) * behind
        samples = samples + rng.normal(0, 10 ** rng.uniform(-4, -2), CLIP).astype(np.float32)
        return torch.from_numpy((samples / max(float(np.abs(samples).max()), 1e-4)).astype(np.float32))

    def _told(self, text: str) -> Tensor:
        if text not in self._pooled:
            self._pooled[text] = self.net.pooled([text])[0].cpu()
        return self._pooled[text]


def _cut(wave: NDArray[np.float32], rng: np.random.Generator, speed: float) -> NDArray[np.float32]:
    """CLIP samples at this speed, from where there is something to hear; a short sound stands anywhere in silence."""
    length = int(CLIP * speed)
    if len(wave) <= length:
        padded = np.zeros(length, np.float32)
        start = int(rng.integers(length - len(wave) + 1))
        padded[start : start + len(wave)] = wave
    else:
        starts = rng.integers(len(wave) - length + 1, size=3)
        padded = max((wave[start : start + length] for start in starts), key=lambda part: float(np.square(part).sum()))
    quick = np.interp(np.linspace(0, length - 1, CLIP), np.arange(length), padded)
    return (quick / max(float(np.abs(quick).max()), 1e-4)).astype(np.float32)
