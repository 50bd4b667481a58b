"""Batches for InstructAny2Pix's training from the built-in world: a step's batch depends on nothing but seed and step."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from paintover.models.any2pix import Any2Pix
from paintover.models.any2pix_wording import Answer
from paintover.models.media import MediaEncoder, Pixels
from paintover.scenes import referring, words
from paintover.scenes.assets import Assets
from paintover.scenes.captioned import free, view
from paintover.scenes.referring import Medium, Referring, Shown
from paintover.scenes.scene import Object, Scene, random_backdrop, random_scene
from paintover.scenes.sounds import FITS, RATE, Recording, Sounds
from paintover.training.any2pix_damage import damaged
from paintover.training.any2pix_recipe import Any2PixRecipe
from paintover.training.batches import LENGTHS, Share

FORMS = {
    "add": 0.16, "remove": 0.12, "replace": 0.16, "recolour": 0.08, "two": 0.22, "style": 0.08, "fit": 0.06, "look": 0.04,
    "made": 0.08,
}  # fmt: skip
DESCRIBE = ("describe the {}", "describe {}", "what is {}?", "what is in {}?", "say what {} is", "{}")
GENERATE = ("generate {}", "make {}", "a picture of {}", "draw {}", "show {}", "{}")
SOUNDING = 0.5  # share of pairs that have a sound
HEARD = 0.6  # share of those that are given as it


@dataclass(frozen=True, eq=False)
class Pair:
    """A picture, its words, and a sound of the same, or None. heard: what the sound is called."""

    scene: Scene
    caption: str
    recording: Recording | None
    heard: str


@dataclass(frozen=True, eq=False)
class Asking:
    """An instruction and the references that it names; what it is answered, and what the answer's states shall be near."""

    instruction: str
    media: Mapping[str, Medium]
    answer: Answer | str
    base: Medium | None = None
    subs: tuple[Medium | str, ...] = ()
    gens: tuple[Medium | str, ...] = ()


class Any2PixBatches(Dataset[dict[str, Any]]):
    """Item `step` is this process's share of that step's rows.

    Of stages 1, 2 and 5: asked, `models.any2pix.Asked` by field; media_NE, what stands at its slots; and, as unit vectors, what
    the states that it names shall be near: base_NE, subs_NE, gens_NE. Of stage 3: given_BE, score_B, target_BE.
    """

    def __init__(
        self,
        root: Path,
        photos: Path | None,
        recordings: Path | None,
        language: Any2Pix,
        encoder: MediaEncoder,
        recipe: Any2PixRecipe,
        share: Share = Share(),
    ) -> None:
        self.assets = Assets(root, "train", photos, heard=True)
        self.sounds = Sounds(root, "train", recordings)
        self.language, self.encoder, self.recipe, self.share = language, encoder, recipe, share
        self._texts: dict[str, Tensor] = {}

    def __getitem__(self, step: int) -> dict[str, Any]:
        mine = range(self.share.rank, self.recipe.batch, self.share.world)
        rngs = [np.random.default_rng([self.recipe.seed, step, r]) for r in mine]
        if self.recipe.stage == 3:
            return self._corrupted(rngs)
        return self._together([self.row(rng) for rng in rngs], np.random.default_rng([self.recipe.seed, step, *mine[:1]]))

    def row(self, rng: np.random.Generator) -> Asking:
        if self.recipe.stage == 5:
            form = str(rng.choice(list(FORMS), p=list(FORMS.values())))
            case = referring.make(form, self.assets, self.sounds, rng, self.recipe.sides)
            return told(case, rng, self.recipe.drop_base, self.recipe.drop_media)
        found = pair(self.assets, self.sounds, rng, self.recipe.sides)
        sound = found.recording if rng.random() < HEARD else None
        phrase = str(rng.choice(DESCRIBE if self.recipe.stage == 1 else GENERATE))
        said, gens = found.caption if sound is None else found.heard, (Shown(found.scene),)
        if self.recipe.stage == 1:
            name, given = ("image1", gens[0]) if sound is None else ("audio1", sound)
            return Asking(phrase.format(f"[{name}]"), {name: given}, said)
        answer = Answer(said, base=False)
        if sound is None:
            return Asking(phrase.format(found.caption), {}, answer, gens=gens)
        return Asking(phrase.format("[audio1]"), {"audio1": sound}, answer, gens=gens)

    def _together(self, rows: Sequence[Asking], rng: np.random.Generator) -> dict[str, Any]:
        questions = [self.language.question(row.instruction, list(row.media)) for row in rows]
        asked = self.language.joined(questions, [row.answer for row in rows], multiple=LENGTHS)
        base = [row.base for row in rows if row.base is not None]
        subs, gens = [sub for row in rows for sub in row.subs], [gen for row in rows for gen in row.gens]
        named = [row.media[name] for row, (_, called) in zip(rows, questions, strict=True) for name in called]
        counts = [len(named), len(base), len(subs), len(gens)]
        split = self.embedded([*named, *base, *subs, *gens], rng).split(counts)
        return {"asked": asdict(asked), **dict(zip(("media_NE", "base_NE", "subs_NE", "gens_NE"), split, strict=True))}

    @torch.no_grad()
    def embedded(self, media: Sequence[Medium | Pixels | str], rng: np.random.Generator) -> Tensor:
        """media_NE of pictures, sounds and words; of the same object once, and of a sound some part of it."""
        rows: dict[int, Tensor] = {}
        shown = {id(m): m for m in media if isinstance(m, Shown | np.ndarray)}
        if shown:
            seen = [m if isinstance(m, np.ndarray) else rendered(m.scene, self.recipe.size) for m in shown.values()]
            with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bf16):
                rows |= dict(zip(shown, self.encoder.see(seen).float(), strict=True))
        heard = {id(m): m for m in media if isinstance(m, Recording)}
        if heard:
            waves = [_part(m.wave, rng) for m in heard.values()]
            rows |= dict(zip(heard, self.encoder.hear(waves).float(), strict=True))
        for text in {m for m in media if isinstance(m, str)} - self._texts.keys():
            self._texts[text] = self.encoder.read([text])[0].float()
        found = [self._texts[m] if isinstance(m, str) else rows[id(m)] for m in media]
        return torch.stack(found) if found else torch.zeros(0, self.language.width)

    def _corrupted(self, rngs: Sequence[np.random.Generator]) -> dict[str, Any]:
        """Pictures of known quality; of each the embedding with noise on it, or one that means the same."""
        pictures, scores, others = [], [], list[Medium | str | None]()
        for rng in rngs:
            found = pair(self.assets, self.sounds, rng, self.recipe.sides)
            picture, score = damaged(rendered(found.scene, self.recipe.size), rng)
            pictures.append(picture)
            scores.append(score)
            other = found.recording if found.recording is not None and rng.random() < 0.5 else found.caption
            others.append(other if rng.random() < self.recipe.swap else None)
        target_BE = self.embedded(pictures, rngs[0])
        given_BE = target_BE.clone()
        swapped = [place for place, other in enumerate(others) if other is not None]
        if swapped:
            given_BE[swapped] = self.embedded([other for other in others if other is not None], rngs[0])
        for place, rng in enumerate(rngs):
            if others[place] is None:
                given_BE[place] += noise_like(given_BE[place], self.recipe.noise, rng)
        return {"given_BE": given_BE, "score_B": torch.tensor(scores), "target_BE": target_BE}


def told(case: Referring, rng: np.random.Generator, drop_base: float, drop_media: float) -> Asking:
    """A case as a row of stage 5, some of its references said in words: of the base its caption, and then there is none.

    Where there is no base, the answer is the result's caption, which a picture can be made from.
    """
    instruction, media, base = case.instruction, dict(case.media), case.base
    if base is not None and rng.random() < drop_base:
        mention = f"[{base}]"
        del media[base]
        base = None
        instruction = instruction.replace(mention, case.caption) if mention in instruction else f"{instruction} {case.caption}"
    for name, medium in case.media.items():
        if name != case.base and rng.random() < drop_media:
            del media[name]
            instruction = re.sub(rf"(the sound |the )?\[{name}\]", called(medium), instruction, flags=re.IGNORECASE)
    subs = tuple(words.noun(noun) if name not in media else media[name] for noun, name in case.subs)
    answer = Answer(case.words if base else case.target_caption, base is not None, tuple(noun for noun, _ in case.subs))
    return Asking(instruction, media, answer, media[base] if base else None, subs, (Shown(case.after),))


def called(medium: Medium) -> str:
    """What a reference is called where words take its place: a thing that stands alone by its name."""
    if isinstance(medium, Recording):
        return words.noun(medium.label)
    scene = medium.scene
    return words.noun(scene.objects[0].cls) if len(scene.objects) == 1 and scene.look is None else words.caption(scene)


def pair(assets: Assets, sounds: Sounds, rng: np.random.Generator, sides: tuple[float, float]) -> Pair:
    """A picture with words for it; often one of what a sound sounds like, with that sound."""
    if rng.random() >= SOUNDING:
        draw = rng.random()
        if draw < 0.4:
            scene = _alone(assets, str(rng.choice(list(assets.classes))), rng)
        else:
            scene = free(assets, rng, sides, 0.5) if draw < 0.7 else random_scene(assets, rng, sides)
        return Pair(scene, words.caption(scene), None, "")
    able = [label for label in sounds.by_label if label in FITS or label in assets.stamps]
    label = str(rng.choice(able))
    found = sounds.by_label[label]
    if label in assets.stamps:
        scene = _alone(assets, label, rng)
    elif FITS[label][0] == "place":
        scene = Scene(view(assets, FITS[label][1]))
    else:
        scene = replace(random_scene(assets, rng, sides), look=FITS[label][1])
    return Pair(scene, words.caption(scene), found[int(rng.integers(len(found)))], words.noun(label))


def rendered(scene: Scene, size: int) -> Pixels:
    return np.rint(scene.render(size) * 255).astype(np.uint8)


def noise_like(unit_E: Tensor, most: float, rng: np.random.Generator) -> Tensor:
    """Gaussian noise about `most` long, or any less."""
    drawn = rng.standard_normal(len(unit_E)) * rng.uniform(0, most) / len(unit_E) ** 0.5
    return torch.from_numpy(drawn).to(unit_E)


def _alone(assets: Assets, cls: str, rng: np.random.Generator) -> Scene:
    stamps = assets.stamps[cls]
    side = float(rng.uniform(0.45, 0.92))
    x, y = (0.5 + (0.5 - 0.5 * side) * float(v) for v in rng.uniform(-1, 1, 2))
    return Scene(random_backdrop(assets, rng, plain=0.6), (Object(stamps[int(rng.integers(len(stamps)))], x, y, side),))


def _part(wave: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Two seconds of a sound, or more, up to all of it."""
    least = 2 * RATE
    if len(wave) <= least:
        return wave
    length = int(rng.integers(least, len(wave) + 1))
    start = int(rng.integers(len(wave) - length + 1))
    part = wave[start : start + length]
    return part if np.abs(part).max() > 0.05 * np.abs(wave).max() else wave  # not what is silent
